//! Calls to the coordinator's REST API, typed (contract/rest-worker.md §3).

use std::time::Duration;

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use patchbay_common::circuit::Circuit;
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::request_id::{self, RequestId};
use patchbay_common::route_report::RouteReport;
use patchbay_common::tunnel::{Claim, Holdings, Settled};
use patchbay_common::use_report::UseReport;
use patchbay_common::worker::Registration;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::services::Listed;
use super::snapshot::Snapshot;
use crate::config::Config;

/// Names this process among the worker's nodes, on heartbeat and leave.
const NODE: HeaderName = HeaderName::from_static("x-patchbay-node");
const TOKEN: HeaderName = HeaderName::from_static("x-backendai-token");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const CONNECT: Duration = Duration::from_secs(5);
const TOTAL: Duration = Duration::from_secs(10);
/// Largest answer about one thing, and largest list of circuits, in bytes.
const MAX_ANSWER: usize = 4 << 20;
const MAX_LIST: usize = 512 << 20;
/// How much of a refusal's body is kept for the log.
const MAX_REFUSAL: usize = 512;

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The client could not be built, or a secret cannot stand in a header.
    #[error("the coordinator's client cannot be built: {0}")]
    Unusable(String),
    /// No answer: refused, cut, or too slow.
    #[error("{call}: no answer: {cause}")]
    Unreachable {
        /// Method and path.
        call: String,
        /// The chain of causes, as text.
        cause: String,
    },
    /// An answer other than success.
    #[error("{call}: {status}: {text}")]
    Refused {
        /// Method and path.
        call: String,
        /// The status.
        status: StatusCode,
        /// Start of the body.
        text: String,
    },
    /// A success whose body is not what was agreed.
    #[error("{call}: unreadable answer: {cause}")]
    Unreadable {
        /// Method and path.
        call: String,
        /// What the parser said.
        cause: String,
    },
}

impl CallError {
    /// The status of a refusal.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The coordinator does not know what was asked for.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }
}

/// What the coordinator says of this worker. Other keys of the answer are not looked at.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Registered {
    /// The worker's key.
    pub id: WorkerId,
    /// Current generation of its circuits; a Python coordinator names none.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Current generation of the gateway's services.
    #[serde(default)]
    pub services_generation: Option<u64>,
}

/// The coordinator, as a worker calls it. Connections are kept and shared by clones.
#[derive(Clone, Debug)]
pub struct Coordinator {
    http: reqwest::Client,
    base: String,
}

impl Coordinator {
    /// A client for the coordinator that `config` names.
    ///
    /// # Errors
    /// [`CallError::Unusable`].
    pub fn new(config: &Config) -> Result<Self, CallError> {
        let header = |what: &str, text: &str| {
            HeaderValue::from_str(text)
                .map_err(|_| CallError::Unusable(format!("{what} has characters no header takes")))
        };
        let mut token = header("secrets.api_secret", config.api_secret.expose())?;
        token.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (TOKEN, token),
            (NODE, header("proxy_worker.id", &config.node_id)?),
            (ACCEPT, HeaderValue::from_static("application/json")),
        ]);
        let http = reqwest::Client::builder()
            .user_agent(concat!("patchbay-worker/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tls_danger_accept_invalid_certs(!config.verify_coordinator)
            .build()
            .map_err(|cause| CallError::Unusable(chain(&cause)))?;
        let base = config.coordinator.clone();
        Ok(Self { http, base })
    }

    /// Registers this worker, or tells the coordinator of its present settings.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn register(&self, registration: &Registration) -> Result<Registered, CallError> {
        let call = Call::new(self, Method::PUT, "/api/worker");
        let request = call.request.json(registration);
        json(call.name, request, MAX_ANSWER).await
    }

    /// Says that this node lives; the answer carries the current generation.
    ///
    /// # Errors
    /// Why it failed; [`CallError::is_not_found`] means that the worker has to register again.
    pub async fn heartbeat(&self, worker: WorkerId) -> Result<Registered, CallError> {
        let call = Call::new(self, Method::PATCH, &format!("/api/worker/{worker}"));
        json(call.name, empty(call.request), MAX_ANSWER).await
    }

    /// All circuits of the worker.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn circuits(&self, worker: WorkerId) -> Result<Snapshot, CallError> {
        let path = format!("/api/worker/{worker}/circuits");
        let call = Call::new(self, Method::GET, &path);
        let body = body(&call.name, call.request, MAX_LIST).await?;
        Snapshot::parse(&body).map_err(|cause| CallError::Unreadable {
            call: call.name,
            cause: cause.to_string(),
        })
    }

    /// One circuit; `None` if the coordinator has none of this id.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn circuit(&self, id: CircuitId) -> Result<Option<Circuit>, CallError> {
        let call = Call::new(self, Method::GET, &format!("/api/circuit/{id}"));
        match json(call.name, call.request, MAX_ANSWER).await {
            Ok(circuit) => Ok(Some(circuit)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says that this node stops.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn leave(&self, worker: WorkerId) -> Result<(), CallError> {
        let call = Call::new(self, Method::DELETE, &format!("/api/worker/{worker}"));
        body(&call.name, call.request, MAX_ANSWER).await.map(drop)
    }

    /// Says that the circuits created by this generation are being served.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn acknowledge(&self, worker: WorkerId, generation: u64) -> Result<(), CallError> {
        let path = format!("/api/worker/{worker}/acknowledgements");
        let call = Call::new(self, Method::POST, &path);
        let request = call
            .request
            .json(&serde_json::json!({ "generation": generation }));
        body(&call.name, request, MAX_ANSWER).await.map(drop)
    }

    /// Tells which routes are out of service.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn report_routes(
        &self,
        worker: WorkerId,
        report: &RouteReport,
    ) -> Result<(), CallError> {
        let path = format!("/api/worker/{worker}/route-health");
        let call = Call::new(self, Method::POST, &path);
        let request = call.request.json(report);
        body(&call.name, request, MAX_ANSWER).await.map(drop)
    }

    /// Tells which circuits were used.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn report_uses(&self, worker: WorkerId, report: &UseReport) -> Result<(), CallError> {
        let path = format!("/api/worker/{worker}/uses");
        let call = Call::new(self, Method::POST, &path);
        let request = call.request.json(report);
        body(&call.name, request, MAX_ANSWER).await.map(drop)
    }

    /// Tells what is held of tunnels; the answer says what stands.
    ///
    /// # Errors
    /// Why it failed; a Python coordinator answers 404.
    pub async fn claim_tunnels(
        &self,
        worker: WorkerId,
        claim: &Claim,
    ) -> Result<Settled, CallError> {
        let path = format!("/api/worker/{worker}/tunnels");
        let call = Call::new(self, Method::POST, &path);
        json(call.name, call.request.json(claim), MAX_LIST).await
    }

    /// What all gateways hold, once its generation is not `after` any more or `wait` seconds are
    /// over.
    ///
    /// # Errors
    /// Why it failed; a Python coordinator answers 404.
    pub async fn holdings(&self, after: u64, wait: u64) -> Result<Holdings, CallError> {
        let path = format!("/api/tunnels?after={after}&wait={wait}");
        let call = Call::new(self, Method::GET, &path);
        let request = call.request.timeout(TOTAL + Duration::from_secs(wait));
        json(call.name, request, MAX_LIST).await
    }

    /// Opens the event stream, resuming after generation `last`.
    ///
    /// # Errors
    /// Why it failed; a Python coordinator answers 404.
    pub async fn events(&self, worker: WorkerId, last: Option<u64>) -> Result<Response, CallError> {
        self.stream(&format!("/api/worker/{worker}/events"), last)
            .await
    }

    /// All services of the gateway.
    ///
    /// # Errors
    /// Why it failed; a Python coordinator answers 404.
    pub async fn services(&self) -> Result<Listed, CallError> {
        let call = Call::new(self, Method::GET, "/api/services");
        json(call.name, call.request, MAX_LIST).await
    }

    /// Opens the stream of their changes, resuming after generation `last`.
    ///
    /// # Errors
    /// Why it failed; a Python coordinator answers 404.
    pub async fn service_events(&self, last: Option<u64>) -> Result<Response, CallError> {
        self.stream("/api/services/_/events", last).await
    }

    async fn stream(&self, path: &str, last: Option<u64>) -> Result<Response, CallError> {
        let call = Call::new(self, Method::GET, path);
        let mut request = call
            .request
            .header(ACCEPT, "text/event-stream")
            .timeout(Duration::MAX);
        if let Some(last) = last {
            request = request.header(LAST_EVENT_ID, last);
        }
        let opening = tokio::time::timeout(TOTAL, send(&call.name, request));
        opening.await.unwrap_or_else(|_| {
            Err(CallError::Unreachable {
                call: call.name,
                cause: "no head within 10 s".into(),
            })
        })
    }
}

/// A request under way, with the words that name it in errors.
struct Call {
    name: String,
    request: RequestBuilder,
}

impl Call {
    fn new(coordinator: &Coordinator, method: Method, path: &str) -> Self {
        let id = request_id::current().unwrap_or_else(RequestId::generate);
        let name = format!("{method} {path}");
        let request = coordinator
            .http
            .request(method, format!("{}{path}", coordinator.base))
            .header(request_id::HEADER, id.as_str())
            .header(request_id::LEGACY_HEADER, id.as_str())
            .timeout(TOTAL);
        Self { name, request }
    }
}

/// An empty body said out loud, in the form the Python worker sends it.
fn empty(request: RequestBuilder) -> RequestBuilder {
    request
        .header(CONTENT_LENGTH, 0)
        .header(CONTENT_TYPE, "application/octet-stream")
        .body("")
}

async fn send(call: &str, request: RequestBuilder) -> Result<Response, CallError> {
    let answer = request
        .send()
        .await
        .map_err(|cause| unreachable(call, &cause))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let text = read(call, answer, MAX_ANSWER).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_REFUSAL)]).into_owned();
    Err(CallError::Refused {
        call: call.to_owned(),
        status,
        text,
    })
}

async fn body(call: &str, request: RequestBuilder, limit: usize) -> Result<Vec<u8>, CallError> {
    let answer = send(call, request).await?;
    read(call, answer, limit).await
}

async fn read(call: &str, mut answer: Response, limit: usize) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer
        .chunk()
        .await
        .map_err(|cause| unreachable(call, &cause))?
    {
        if body.len() + chunk.len() > limit {
            return Err(CallError::Unreadable {
                call: call.to_owned(),
                cause: format!("longer than {limit} bytes"),
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

async fn json<T: DeserializeOwned>(
    call: String,
    request: RequestBuilder,
    limit: usize,
) -> Result<T, CallError> {
    let body = body(&call, request, limit).await?;
    serde_json::from_slice(&body).map_err(|cause| CallError::Unreadable {
        call,
        cause: cause.to_string(),
    })
}

fn unreachable(call: &str, cause: &reqwest::Error) -> CallError {
    CallError::Unreachable {
        call: call.to_owned(),
        cause: chain(cause),
    }
}

/// The innermost causes say what happened; the outer ones only that something did.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
