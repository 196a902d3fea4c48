//! Carries one exchange to a worker: head, body as it comes, and, after an upgrade, bytes both ways.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{
    CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{StatusCode, Version};
use hyper::body::Body as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use patchbay_common::lifecycle::InFlight;
use patchbay_common::request_id::{self, HEADER, LEGACY_HEADER};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::Peer;
use super::super::error::ApiError;
use super::{Target, rewrite};

const CONNECT: Duration = Duration::from_secs(5);
/// Idle connections kept to each worker.
const IDLE: usize = 64;
/// Upgraded connections open at once.
const MAX_STREAMS: usize = 8_192;
/// What concerns one connection only (RFC 9110 §7.6.1), and what is between us and our callers.
const KEPT_BACK: [&str; 9] = [
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "x-backendai-token",
    "x-patchbay-node",
    "x-forwarded-host",
    "x-forwarded-prefix",
];

/// Marks an answer that is an app's own, which nothing of ours is added to but the request's id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relayed;

/// Calls workers on behalf of clients.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    /// Room for connections that have left HTTP, which the API's own limit no longer counts.
    streams: Arc<Semaphore>,
}

impl Client {
    /// A client that follows nothing, unpacks nothing and waits for as long as it takes.
    ///
    /// # Errors
    /// If there is no TLS.
    pub fn new() -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .pool_max_idle_per_host(IDLE)
            .pool_idle_timeout(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .no_proxy()
            .http1_only()
            .build()?;
        Ok(Self {
            http,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        })
    }

    /// Carries the exchange. `in_flight` keeps the process alive until it has ended.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`] if the worker does not answer.
    pub(super) async fn forward(
        &self,
        target: Target,
        mut request: Request<Body>,
        in_flight: InFlight,
    ) -> Result<Response, ApiError> {
        let upgrade = upgrade(&mut request);
        let place = match &upgrade {
            None => None,
            Some(_) => Some(
                Arc::clone(&self.streams)
                    .try_acquire_owned()
                    .map_err(|_| ApiError::Busy("too many relayed streams are open"))?,
            ),
        };
        let (parts, body) = request.into_parts();
        let peer = parts.extensions.get::<Peer>().copied();
        let mut headers = passed_on(&parts.headers, upgrade.is_some());
        introduce(&mut headers, &parts.headers, peer, &target)?;
        let mut call = self
            .http
            .request(parts.method, target.url.clone())
            .headers(headers);
        if !body.is_end_stream() && upgrade.is_none() {
            call = call.body(reqwest::Body::wrap_stream(body.into_data_stream()));
        }
        let answer = call
            .send()
            .await
            .map_err(|cause| unreachable(&target, cause))?;
        let mut headers = passed_on(answer.headers(), false);
        rewrite::answer(&mut headers, &target.origin, &target.prefix);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        match (answer.status(), upgrade) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(client)) => {
                for name in [CONNECTION, UPGRADE] {
                    if let Some(value) = answer.headers().get(&name) {
                        headers.insert(name, value.clone());
                    }
                }
                tokio::spawn(splice(client, answer, (in_flight, place)));
            }
            _ => {
                let stream = answer.bytes_stream();
                let held = futures_util::StreamExt::map(stream, move |piece| {
                    // Held until the last byte has gone.
                    let _ = &in_flight;
                    piece
                });
                *response.body_mut() = Body::from_stream(held);
            }
        }
        *response.headers_mut() = headers;
        response.extensions_mut().insert(Relayed);
        Ok(response)
    }
}

/// The client's connection, if the request asks for another protocol on it.
fn upgrade(request: &mut Request<Body>) -> Option<OnUpgrade> {
    let asked = request.headers().contains_key(UPGRADE) && request.version() == Version::HTTP_11;
    asked.then(|| hyper::upgrade::on(request))
}

/// The headers that go further.
fn passed_on(headers: &HeaderMap, upgrading: bool) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let mut passed: HeaderMap = headers
        .iter()
        .filter(|(name, _)| {
            let hop = [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, HOST].contains(name);
            let kept = KEPT_BACK.contains(&name.as_str());
            !hop && !kept && !named.iter().any(|other| other == name.as_str())
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if upgrading {
        passed.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(wish) = headers.get(UPGRADE) {
            passed.insert(UPGRADE, wish.clone());
        }
        passed.remove(CONTENT_LENGTH);
    }
    passed
}

/// Says who asks, by which address and under which id.
fn introduce(
    headers: &mut HeaderMap,
    asked: &HeaderMap,
    peer: Option<Peer>,
    target: &Target,
) -> Result<(), ApiError> {
    let unfit = |_| ApiError::Internal("an address fits no header".into());
    let mut set = |name: HeaderName, text: &str| -> Result<(), ApiError> {
        headers.insert(name, HeaderValue::try_from(text).map_err(unfit)?);
        Ok(())
    };
    if let Some(host) = &target.host {
        set(HOST, host)?;
    }
    if let Some(id) = request_id::current() {
        set(HeaderName::from_static(HEADER), id.as_str())?;
        set(HeaderName::from_static(LEGACY_HEADER), id.as_str())?;
    }
    set(
        HeaderName::from_static("x-forwarded-prefix"),
        &target.prefix,
    )?;
    if let Some(host) = asked.get(HOST).and_then(|host| host.to_str().ok()) {
        set(HeaderName::from_static("x-forwarded-host"), host)?;
    }
    // What stands there may be made up; the worker believes it from proxies it trusts only.
    let chain = asked
        .get("x-forwarded-for")
        .and_then(|chain| chain.to_str().ok());
    if let Some(Peer(peer)) = peer {
        let ip = peer.ip().to_canonical();
        let chain = chain.map_or_else(|| ip.to_string(), |chain| format!("{chain}, {ip}"));
        set(HeaderName::from_static("x-forwarded-for"), &chain)?;
    }
    headers.remove(FORWARDED);
    Ok(())
}

/// Copies both ways until both sides have ended, each on its own.
async fn splice(
    client: OnUpgrade,
    worker: reqwest::Response,
    held: (InFlight, Option<OwnedSemaphorePermit>),
) {
    let (client, worker) = tokio::join!(client, worker.upgrade());
    let (Ok(client), Ok(mut worker)) = (client, worker) else {
        log::debug!("a relayed connection could not be upgraded");
        return;
    };
    let mut client = TokioIo::new(client);
    if let Err(cause) = tokio::io::copy_bidirectional(&mut client, &mut worker).await {
        log::debug!("a relayed stream ended: {cause}");
    }
    drop(held);
}

fn unreachable(target: &Target, cause: reqwest::Error) -> ApiError {
    log::warn!(
        "the worker at {} cannot be reached: {cause:?}",
        target.origin
    );
    ApiError::Unreachable
}
