//! What pages of other origins may do with the API: anything but send credentials
//! (contract/rest-coordinator.md §5).

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN,
};

use super::error::ApiError;
use super::reply::{Call, Reply};

/// Answers a preflight.
pub(super) fn preflight(call: &Call) -> Result<Reply, ApiError> {
    let text = |name| call.header(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(method)) = (text(ORIGIN), text(ACCESS_CONTROL_REQUEST_METHOD)) else {
        return Err(ApiError::Preflight);
    };
    let mut reply = Reply::empty(200);
    reply.set(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    reply.set(ACCESS_CONTROL_ALLOW_METHODS, method);
    if let Some(headers) = text(ACCESS_CONTROL_REQUEST_HEADERS) {
        reply.set(ACCESS_CONTROL_ALLOW_HEADERS, &headers.to_ascii_uppercase());
    }
    Ok(reply)
}

/// Lets a page of another origin read an answer that does not say yet who may.
pub(super) fn expose(call: &Call, reply: &mut Reply) {
    if reply.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    let origin = call.header(ORIGIN).and_then(|value| value.to_str().ok());
    if let Some(origin) = origin.map(str::to_owned) {
        let names: Vec<&str> = reply
            .headers()
            .keys()
            .map(http::HeaderName::as_str)
            .collect();
        let names = names.join(",");
        reply.set(ACCESS_CONTROL_ALLOW_ORIGIN, &origin);
        reply.set(ACCESS_CONTROL_EXPOSE_HEADERS, &names);
    }
}
