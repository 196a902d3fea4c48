//! What can go wrong with a call of the API. `crate::error` gives it its status and words.

use http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ALLOW, CACHE_CONTROL,
    CONTENT_TYPE,
};
use patchbay_common::request_id::RequestId;

use super::reply::{Call, Reply};
use crate::error::Problem;
use crate::setup::SetupError;

/// Why a call is not answered.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No route of this path.
    #[error("There is nothing at this path")]
    NoRoute,
    /// The route has no such method.
    #[error("Method {0} not allowed")]
    Method(String),
    /// The caller may not read this.
    #[error("Your address is not among metric_access_allowed_hosts")]
    Forbidden,
    /// The secret is missing or wrong.
    #[error("X-BackendAI-Token is missing or wrong")]
    Token,
    /// The request is not, or no longer, remembered.
    #[error("No request of this id is remembered here")]
    NotRemembered,
    /// A preflight without what makes it one.
    #[error("CORS preflight request failed: Origin or Access-Control-Request-Method is missing")]
    Preflight,
    /// The body is not the JSON expected.
    #[error("Malformed body")]
    Body,
    /// The handshake ended without a permit.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

impl ApiError {
    /// As the wire shows it.
    pub fn problem(&self) -> Problem {
        Problem::from(self)
    }

    pub(super) fn render(&self, call: &Call, id: &RequestId) -> Reply {
        let problem = self.problem();
        let accept = call.header(ACCEPT).map(http::HeaderValue::as_bytes);
        let (content_type, body) = problem.render(accept, id);
        let mut reply = Reply::new(problem.status, content_type, body.into_bytes());
        // Callers that ask for JSON by name get it by that name (contract/rest-worker.md §1).
        if content_type.starts_with("application/problem") && names_json(accept) {
            reply.set(CONTENT_TYPE, "application/json; charset=utf-8");
        }
        reply.set(ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        reply.set(ACCESS_CONTROL_EXPOSE_HEADERS, "*");
        reply.set(CACHE_CONTROL, "no-store");
        if let Self::Method(_) = self {
            reply.set(ALLOW, "GET, HEAD");
        }
        reply
    }
}

fn names_json(accept: Option<&[u8]>) -> bool {
    accept
        .unwrap_or_default()
        .split(|byte| *byte == b',')
        .any(|entry| {
            let kind = entry.split(|byte| *byte == b';').next().unwrap_or_default();
            kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
        })
}
