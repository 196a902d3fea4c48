//! From what went wrong to status and body: the only place where the coordinator does so
//! (contract/rest-coordinator.md §4).
//!
//! Handlers answer with an [`ApiError`]; it travels as a [`Problem`] inside the response until
//! [`render`] writes it, since only there the client's `Accept` is known.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::accept;
use super::json::{CONTENT_TYPE_JSON, to_vec};
use crate::circuits::{CloseError, EndpointError, OpenError};
use crate::registry::JoinError;
use crate::services::ServiceError;
use crate::store::StoreError;

const PROBLEMS: &str = "https://api.backend.ai/probs/";

/// Why a request is not granted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The request makes no sense as a whole.
    #[error("{0}")]
    BadRequest(String),
    /// The body could not be read.
    #[error("Malformed body")]
    MalformedBody,
    /// Parameters are missing or wrong.
    #[error("Input validation error")]
    Invalid(Vec<FieldError>),
    /// No credential, or not the right one.
    #[error("{0}")]
    Unauthorized(String),
    /// The token is not for this session.
    #[error("E20007: Session ID mismatch")]
    SessionMismatch,
    /// A token for an inference app, which has no session to open.
    #[error("Not meant for inference apps")]
    NoSession,
    /// The client may not.
    #[error("{0}")]
    Forbidden(&'static str),
    /// No such path.
    #[error("no route for {0}")]
    NoRoute(String),
    /// No such method on this path.
    #[error("Method {0} not allowed")]
    Method(Method),
    /// No such circuit, worker, token.
    #[error("no such {0}")]
    NoSuch(&'static str),
    /// The worker of a relayed request does not answer.
    #[error("the worker cannot be reached")]
    Unreachable,
    /// Something else is there already.
    #[error("{msg}")]
    Conflict {
        /// What.
        msg: &'static str,
        /// Who holds it, and what they hold.
        data: Value,
    },
    /// A bound of this program is reached.
    #[error("{0}")]
    Busy(&'static str),
    /// Opening failed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Opening endpoints failed.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Closing failed.
    #[error(transparent)]
    Close(#[from] CloseError),
    /// Joining failed.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A service cannot be so.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A fault of this program.
    #[error("{0}")]
    Internal(String),
}

/// One parameter that does not fit, in the form clients of the incumbent display.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct FieldError {
    /// Kind of mistake.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// Path to the parameter.
    pub(crate) loc: Vec<Value>,
    /// What is wrong and how to mend it.
    pub(crate) msg: String,
    /// Where to read more.
    pub(crate) url: String,
}

impl FieldError {
    /// A mistake at a path.
    pub(crate) fn new(kind: &'static str, loc: Vec<Value>, msg: impl Into<String>) -> Self {
        Self {
            kind,
            loc,
            msg: msg.into(),
            url: format!("https://errors.pydantic.dev/2.12/v/{kind}"),
        }
    }
}

/// An error as it goes out. `error_code` also labels the metrics.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(skip)]
    status: StatusCode,
    #[serde(rename = "type")]
    kind: String,
    title: Cow<'static, str>,
    error_code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl Problem {
    fn new(
        status: StatusCode,
        kind: &str,
        title: impl Into<Cow<'static, str>>,
        error_code: &'static str,
    ) -> Self {
        Self {
            status,
            kind: format!("{PROBLEMS}{kind}"),
            title: title.into(),
            error_code,
            msg: None,
            data: None,
        }
    }

    fn msg(mut self, msg: impl ToString) -> Self {
        self.msg = Some(msg.to_string());
        self
    }

    fn data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// Domain, operation and detail of the error code (contract/metrics.md §3).
    pub(crate) fn code_parts(&self) -> (&'static str, &'static str, &'static str) {
        let mut parts = self.error_code.splitn(3, '_');
        let mut next = || parts.next().unwrap_or_default();
        (next(), next(), next())
    }
}

fn bad_request() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "generic-bad-request",
        "Bad request.",
        "agent_request_bad-request",
    )
}

fn invalid_params() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "invalid-api-params",
        "Missing or invalid API parameters.",
        "agent_request_invalid-parameters",
    )
}

fn no_worker() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "appproxy/worker-not-available",
        "Worker not available.",
        "agent_access_not-found",
    )
}

fn port_taken() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "appproxy/port-not-available",
        "Designated port already occupied.",
        "agent_setup_already-exists",
    )
}

fn unavailable() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "service-unavailable",
        "Service unavailable.",
        "agent_generic_unavailable",
    )
}

fn conflict() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "appproxy/conflict",
        "Already taken.",
        "agent_setup_already-exists",
    )
}

fn unreachable() -> Problem {
    Problem::new(
        StatusCode::BAD_GATEWAY,
        "appproxy/worker-unreachable",
        "Worker not reachable.",
        "agent_access_unreachable",
    )
}

fn no_such(noun: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "object-not-found",
        format!("E00002: No such {noun}."),
        "agent_read_not-found",
    )
}

fn internal() -> Problem {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal-server-error",
        "Internal server error.",
        "agent_generic_internal-error",
    )
}

impl From<&ApiError> for Problem {
    fn from(error: &ApiError) -> Self {
        match error {
            ApiError::BadRequest(msg) => bad_request().msg(msg),
            ApiError::MalformedBody => invalid_params().msg(error),
            ApiError::Invalid(errors) => {
                invalid_params().msg(error).data(json!({"errors": errors}))
            }
            ApiError::Unauthorized(msg) => Self::new(
                StatusCode::UNAUTHORIZED,
                "auth-failed",
                "Credential/signature mismatch.",
                "agent_auth_unauthorized",
            )
            .msg(msg),
            ApiError::SessionMismatch => Self::new(
                StatusCode::UNAUTHORIZED,
                "invalid-credentials",
                "Authentication credentials not valid.",
                "agent_auth_unauthorized",
            )
            .msg(error),
            ApiError::NoSession => Self::new(
                StatusCode::BAD_REQUEST,
                "appproxy/invalid-session-parameter",
                "Invalid session parameter.",
                "agent_request_invalid-parameters",
            )
            .msg(error),
            ApiError::Forbidden(msg) => Self::new(
                StatusCode::FORBIDDEN,
                "generic-forbidden",
                "Forbidden operation.",
                "agent_access_forbidden",
            )
            .msg(msg),
            ApiError::NoRoute(path) => Self::new(
                StatusCode::NOT_FOUND,
                "url-not-found",
                "Unknown URL path.",
                "agent_request_not-found",
            )
            .data(path.as_str().into()),
            ApiError::Method(_) => Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "HTTP Method Not Allowed.",
                "agent_request_bad-request",
            )
            .msg(error),
            ApiError::NoSuch(noun) => no_such(noun),
            ApiError::Unreachable => unreachable().msg(error),
            ApiError::Conflict { msg, data } => conflict().msg(msg).data(data.clone()),
            ApiError::Busy(msg) => unavailable().msg(msg),
            ApiError::Open(error) => opening(error),
            ApiError::Endpoint(error) => endpoints(error),
            ApiError::Close(CloseError::NoSuchCircuit) => no_such("circuit"),
            ApiError::Close(CloseError::Store(error)) => storing(error),
            ApiError::Join(JoinError::Incomplete { field, fix }) => invalid_params()
                .msg("Input validation error")
                .data(json!({"errors": [FieldError::new("value_error", vec![(*field).into()], *fix)]})),
            ApiError::Join(JoinError::NoSuchWorker) => no_such("worker"),
            ApiError::Join(JoinError::Store(error)) => storing(error),
            ApiError::Service(error) => services(error),
            ApiError::Store(error) => storing(error),
            ApiError::Internal(_) => internal(),
        }
    }
}

fn opening(error: &OpenError) -> Problem {
    match error {
        OpenError::NoWorker => no_worker(),
        OpenError::PortTaken { port } => port_taken().data(json!({"port": port})),
        OpenError::SubdomainTaken { subdomain } => {
            port_taken().data(json!({"subdomain": subdomain}))
        }
        OpenError::NoSuchToken => no_such("token"),
        OpenError::SessionMismatch => Problem::from(&ApiError::SessionMismatch),
        OpenError::NotAcknowledged { worker } => not_responding(worker),
        OpenError::Interrupted => internal(),
        OpenError::Store(error) => storing(error),
    }
}

fn endpoints(error: &EndpointError) -> Problem {
    match error {
        EndpointError::InvalidUrl { .. } => Problem::new(
            StatusCode::BAD_REQUEST,
            "appproxy/invalid-url",
            "Invalid URL.",
            "agent_request_invalid-parameters",
        )
        .msg(error),
        EndpointError::NoWorker { endpoint } => no_worker().data(json!({"endpoint": endpoint})),
        EndpointError::NotAcknowledged { worker } => not_responding(worker),
        EndpointError::NoSuchEndpoint => no_such("circuit"),
        EndpointError::Interrupted => internal(),
        EndpointError::Store(error) => storing(error),
    }
}

fn services(error: &ServiceError) -> Problem {
    let invalid = |flaws: &[(String, String)]| {
        let mistake = |(key, problem): &(String, String)| {
            let loc = key.split('.').map(Value::from).collect();
            FieldError::new("value_error", loc, problem.as_str())
        };
        let errors: Vec<FieldError> = flaws.iter().map(mistake).collect();
        Problem::from(&ApiError::Invalid(errors))
    };
    match error {
        ServiceError::NoSuchService => no_such("service"),
        ServiceError::Name(_) => invalid(&[("name".into(), error.to_string())]),
        ServiceError::Flawed(flaws) => invalid(flaws),
        ServiceError::Found { origins } => conflict().msg(error).data(json!({"origins": origins})),
        ServiceError::RouteTaken { route, service } => {
            let data = json!({"route": route, "service": service});
            conflict().msg(error).data(data)
        }
        ServiceError::Tied { service, .. } => {
            conflict().msg(error).data(json!({"service": service}))
        }
        ServiceError::Store(error) => storing(error),
    }
}

fn not_responding(worker: &str) -> Problem {
    unavailable()
        .msg("E10001: Proxy worker not responding")
        .data(json!({"worker": worker}))
}

fn storing(error: &StoreError) -> Problem {
    match error {
        StoreError::PortTaken { port, .. } => port_taken().data(json!({"port": port})),
        StoreError::SubdomainTaken { subdomain } => {
            port_taken().data(json!({"subdomain": subdomain}))
        }
        StoreError::WorkerFull(_) => no_worker(),
        StoreError::NoSuchWorker(_) => no_such("worker"),
        StoreError::Unfit { field, problem } => {
            let mistake = FieldError::new("value_error", vec![(*field).into()], problem.as_str());
            invalid_params()
                .msg("Input validation error")
                .data(json!({"errors": [mistake]}))
        }
        StoreError::ListFull(full) => conflict().msg(full),
        StoreError::UnknownSchema { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Failed { .. } => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "appproxy/database-error",
            "Error while communicating with database.",
            "database_generic_internal-error",
        ),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem::from(&self);
        // Bodies keep internals to themselves; this line is where the operator reads them.
        if problem.status == StatusCode::INTERNAL_SERVER_ERROR {
            log::error!("{self}");
        } else {
            log::debug!("refused: {self}");
        }
        let mut response = problem.status.into_response();
        response.extensions_mut().insert(problem);
        response
    }
}

/// Writes the body of a response that carries a [`Problem`]: JSON, unless the client's `Accept`
/// cannot take it; then a page.
pub(crate) fn render(request: &HeaderMap, mut response: Response) -> Response {
    let Some(mut problem) = response.extensions().get::<Problem>().cloned() else {
        return response;
    };
    if problem.status == StatusCode::METHOD_NOT_ALLOWED {
        let allow = response.headers().get(ALLOW);
        let allow = allow
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let methods: Vec<&str> = allow.split(',').filter(|name| !name.is_empty()).collect();
        problem.data = Some(json!({"allowed_methods": methods}));
    }
    let (kind, body) = if accept::takes_json(request) {
        (CONTENT_TYPE_JSON, to_vec(&problem).unwrap_or_default())
    } else {
        (
            HeaderValue::from_static("text/html; charset=utf-8"),
            page(&problem).into_bytes(),
        )
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    // The router has noted the length of the body that this one replaces.
    headers.insert(CONTENT_LENGTH, body.len().into());
    *response.body_mut() = Body::from(body);
    response
}

fn page(problem: &Problem) -> String {
    let data = problem
        .data
        .as_ref()
        .map(Value::to_string)
        .unwrap_or_default();
    let msg = problem.msg.as_deref().unwrap_or_default();
    let request_id = patchbay_common::request_id::current();
    let request_id = request_id.as_ref().map_or("", |id| id.as_str());
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body><h1>Backend.AI</h1><h2>{title}</h2><p>{data} {msg}</p>\
         <p><small>Request {request_id}</small></p></body></html>\n",
        title = escape(&problem.title),
        data = escape(&data),
        msg = escape(msg),
    )
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
