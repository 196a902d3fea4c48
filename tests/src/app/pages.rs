//! Plain answers.

use axum::Json;
use axum::body::Bytes;
use axum::extract::Path;
use axum::response::{AppendHeaders, IntoResponse, Redirect};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use serde_json::{Value, json};

pub(super) async fn hello() -> &'static str {
    "hello from the app"
}

/// The request as the app got it.
pub(super) async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Json<Value> {
    let headers: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        })
        .collect();
    Json(json!({
        "method": method.as_str(),
        "target": uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    }))
}

/// Two cookies in two headers.
pub(super) async fn cookies() -> impl IntoResponse {
    let cookies = [(header::SET_COOKIE, "a=1"), (header::SET_COOKIE, "b=2")];
    (AppendHeaders(cookies), "two cookies")
}

pub(super) async fn status(Path(code): Path<u16>) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST)
}

pub(super) async fn redirect() -> Redirect {
    Redirect::to("/hello?after=redirect")
}
