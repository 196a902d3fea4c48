//! The long poll as a connection: a small HTTP/1 server at the far end of a pipe turns each
//! request into a message for the agent and its message back into an answer. So a tunnel is a
//! connection to everybody else, whatever it travels by.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use patchbay_common::tunnel::{Dispatch, Respond, TunnelId, decode_header, encode_header};
use tokio::io::DuplexStream;

use super::queue::AskError;
use super::session::Session;
use crate::stage::is_hop_by_hop;

/// Bytes in the pipe.
const PIPE: usize = 16 << 10;
/// Seconds after which a visitor may try again where the agent is busy or gone.
const RETRY_AFTER: &str = "2";

/// Whom a request is put to.
#[derive(Clone)]
struct Desk {
    session: Arc<Session>,
    tunnel: TunnelId,
    max_body: usize,
}

/// A connection by long polling.
pub(super) fn connect(session: &Arc<Session>, tunnel: &TunnelId, max_body: usize) -> DuplexStream {
    let (near, far) = tokio::io::duplex(PIPE);
    let desk = Desk {
        session: Arc::clone(session),
        tunnel: tunnel.clone(),
        max_body,
    };
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let desk = desk.clone();
            async move { Ok::<_, Infallible>(desk.answer(request).await) }
        });
        let mut server = http1::Builder::new();
        server.half_close(false).auto_date_header(false);
        // The near end goes away with its request; that is the proxy's to report.
        let _ = server.serve_connection(TokioIo::new(far), service).await;
    });
    near
}

impl Desk {
    async fn answer(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        if head.headers.contains_key("upgrade") {
            return told(
                StatusCode::NOT_IMPLEMENTED,
                "the agent speaks only long polling, which carries no upgrades",
            );
        }
        let is_head = head.method == http::Method::HEAD;
        let body = match Limited::new(body, self.max_body).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let text = "the request's body is larger than the agent's transport carries";
                return told(StatusCode::PAYLOAD_TOO_LARGE, text);
            }
            Err(_) => return told(StatusCode::BAD_REQUEST, "the request's body broke off"),
        };
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let dispatch = Dispatch {
            request_id: String::new(),
            tunnel_id: self.tunnel,
            method: head.method.as_str().to_owned(),
            path: path.to_owned(),
            headers: headers_to_agent(&head.headers),
            body: body.into(),
        };
        match self.session.queue.ask(dispatch).await {
            Ok(answer) if answer.body.len() > self.max_body => {
                told(StatusCode::BAD_GATEWAY, "the agent's answer is too large")
            }
            Ok(answer) => response(answer, is_head).unwrap_or_else(|text| {
                log::warn!("agent {}: {text}", self.session.agent);
                told(StatusCode::BAD_GATEWAY, "the agent's answer is not HTTP")
            }),
            Err(error) => refusal(&error),
        }
    }
}

fn headers_to_agent(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .filter(|(name, _)| !is_hop_by_hop(name.as_str()))
        .map(|(name, value)| (name.as_str().to_owned(), encode_header(value.as_bytes())))
        .collect()
}

/// The agent's message as an answer; what is wrong with it otherwise.
fn response(answer: Respond, is_head: bool) -> Result<Response<Full<Bytes>>, String> {
    let status = StatusCode::from_u16(answer.status)
        .ok()
        .filter(|status| !status.is_informational())
        .ok_or_else(|| format!("{} is not the status of an answer", answer.status))?;
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = status;
    for (name, value) in &answer.headers {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .ok()
            .zip(decode_header(value).and_then(|value| HeaderValue::from_bytes(&value).ok()));
        let (name, value) = parsed.ok_or_else(|| format!("header `{name}` cannot be sent"))?;
        // How long the body is, the server says; of a HEAD request only the service knows.
        let framing = name == http::header::CONTENT_LENGTH && !is_head;
        if !is_hop_by_hop(name.as_str()) && !framing {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

fn refusal(error: &AskError) -> Response<Full<Bytes>> {
    let status = match error {
        AskError::Full | AskError::Moved => StatusCode::SERVICE_UNAVAILABLE,
        AskError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        AskError::Gone | AskError::Failed(_) => StatusCode::BAD_GATEWAY,
    };
    told(status, &error.to_string())
}

fn told(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({ "error": status.as_str(), "message": text }).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(
            http::header::RETRY_AFTER,
            HeaderValue::from_static(RETRY_AFTER),
        );
    }
    response
}
