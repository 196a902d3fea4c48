//! Cross-origin rules (contract/rest-coordinator.md §5). Any origin, no credentials; errors are
//! readable from everywhere.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderValue, ORIGIN,
};
use http::{HeaderMap, Request, StatusCode};

use super::error::ApiError;

const ANY: HeaderValue = HeaderValue::from_static("*");

/// The paths that answer to any origin by themselves and to no preflight.
pub(crate) const UNREGISTERED: &str = "/v2/proxy/";

/// Answers a preflight; the handler of `OPTIONS` on every registered path.
pub(crate) async fn preflight(request: Request<Body>) -> Result<Response, ApiError> {
    let headers = request.headers();
    let (Some(origin), Some(method)) = (
        headers.get(ORIGIN),
        headers.get(ACCESS_CONTROL_REQUEST_METHOD),
    ) else {
        return Err(ApiError::BadRequest(
            "a preflight needs the headers Origin and Access-Control-Request-Method".into(),
        ));
    };
    let mut response = StatusCode::OK.into_response();
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    if let Some(names) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS)
        && let Ok(names) = names.to_str()
    {
        let names: Vec<String> = names
            .split(',')
            .map(|name| name.trim().to_ascii_uppercase())
            .collect();
        if let Ok(names) = HeaderValue::try_from(names.join(",")) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
    }
    Ok(response)
}

/// Adds to a finished answer what lets other origins read it.
pub(crate) fn open_up(
    path: &str,
    origin: Option<&HeaderValue>,
    status: StatusCode,
    answer: &mut HeaderMap,
) {
    if answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    if status.is_client_error() || status.is_server_error() {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
        answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANY);
    } else if let Some(origin) = origin
        && !path.starts_with(UNREGISTERED)
    {
        let names: Vec<&str> = answer.keys().map(http::HeaderName::as_str).collect();
        if let Ok(names) = HeaderValue::try_from(names.join(",")) {
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names);
        }
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
}

/// The two headers of `/v2/proxy/*` JSON answers.
pub(crate) fn for_everyone() -> [(http::HeaderName, HeaderValue); 2] {
    [
        (ACCESS_CONTROL_ALLOW_ORIGIN, ANY),
        (ACCESS_CONTROL_EXPOSE_HEADERS, ANY),
    ]
}
