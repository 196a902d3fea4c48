//! The request id of every exchange: taken from the client or made, put under both names on every
//! answer, and written in one access-log line (contract/request-id.md §3).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use patchbay_common::request_id::{Accepted, HEADER, LEGACY_HEADER, RequestId};

/// The id of a request.
pub(crate) fn accept(headers: &HeaderMap) -> Accepted {
    RequestId::accept(|name| headers.get(name).map(HeaderValue::as_bytes))
}

/// Puts the id on an answer.
pub(crate) fn echo(id: &RequestId, answer: &mut HeaderMap) {
    // Every id is made of characters a header can carry.
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        answer.insert(HeaderName::from_static(HEADER), value.clone());
        answer.insert(HeaderName::from_static(LEGACY_HEADER), value);
    }
}

/// The access-log line; called inside the request's scope, which adds the id.
pub(crate) fn log_access(method: &Method, route: &str, status: StatusCode, took: Duration) {
    let duration_ms = (took.as_secs_f64() * 1e6).round() / 1e3;
    log::info!(
        target: "patchbay_coordinator::access",
        method = method.as_str(), route = route, status = status.as_u16(), duration_ms = duration_ms;
        "answered"
    );
}
