//! Calls to the coordinator's REST API, with failures an operator can act on.

use std::error::Error;
use std::time::Duration;

use http::header::{ACCEPT, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use serde_json::Value;

use super::connect::Place;

const CONNECT: Duration = Duration::from_secs(5);
const TOTAL: Duration = Duration::from_secs(60);

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The secret cannot stand in a header, or there is no TLS.
    #[error("the coordinator cannot be called: {0}")]
    Unusable(String),
    /// Nobody answers.
    #[error("no coordinator answers at {url}: {cause}\n(is it running, and is --url right?)")]
    Unreachable {
        /// Whom we called.
        url: String,
        /// The chain of causes.
        cause: String,
    },
    /// The secret is not the coordinator's.
    #[error(
        "the coordinator at {url} refuses the API secret (401): say the one of its \
         secrets.api_secret"
    )]
    Unauthorized {
        /// Whom we called.
        url: String,
    },
    /// There is no such thing, or the program there has no such call.
    #[error("{call}: not found (404): {text}")]
    NotFound {
        /// Method and path.
        call: String,
        /// What the coordinator said.
        text: String,
    },
    /// Another refusal.
    #[error("{call}: the coordinator answers {status}: {text}")]
    Refused {
        /// Method and path.
        call: String,
        /// The status.
        status: StatusCode,
        /// What the coordinator said.
        text: String,
    },
    /// A file that is to be sent is not what it should be.
    #[error("{file}: {problem}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What answers is no coordinator.
    #[error("{call}: the answer is not what a coordinator says: {cause}")]
    Unreadable {
        /// Method and path.
        call: String,
        /// What is wrong.
        cause: String,
    },
}

/// The coordinator, as an operator calls it.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    /// A client for the coordinator at `place`.
    ///
    /// # Errors
    /// [`CallError::Unusable`].
    pub(super) fn new(place: &Place) -> Result<Self, CallError> {
        let unusable = |cause: &dyn Error| CallError::Unusable(chain(cause));
        let mut token =
            HeaderValue::from_str(place.secret.expose()).map_err(|cause| unusable(&cause))?;
        token.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (http::HeaderName::from_static("x-backendai-token"), token),
            (ACCEPT, HeaderValue::from_static("application/json")),
        ]);
        let http = reqwest::Client::builder()
            .user_agent(concat!("patchbay-ctl/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT)
            .timeout(TOTAL)
            .redirect(reqwest::redirect::Policy::none())
            .tls_danger_accept_invalid_certs(place.insecure)
            .build()
            .map_err(|cause| unusable(&cause))?;
        let base = place.url.clone();
        Ok(Self { http, base })
    }

    /// `GET path`.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn get(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::GET, path, None).await
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn delete(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::DELETE, path, None).await
    }

    /// `PUT path` with this body.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn put(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        self.call(Method::PUT, path, Some(body)).await
    }

    /// `POST path`, without a body.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn post(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::POST, path, None).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let call = format!("{method} {path}");
        let url = format!("{}{path}", self.base);
        let unreachable = |cause: reqwest::Error| CallError::Unreachable {
            url: self.base.clone(),
            cause: chain(&cause.without_url()),
        };
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let text = response.text().await.map_err(unreachable)?;
        match status {
            status if status.is_success() => {
                serde_json::from_str(&text).map_err(|cause| CallError::Unreadable {
                    call,
                    cause: cause.to_string(),
                })
            }
            StatusCode::UNAUTHORIZED => Err(CallError::Unauthorized {
                url: self.base.clone(),
            }),
            StatusCode::NOT_FOUND => Err(CallError::NotFound {
                call,
                text: said(&text),
            }),
            status => Err(CallError::Refused {
                call,
                status,
                text: said(&text),
            }),
        }
    }
}

/// The words of an error's body: its message, its title, or its beginning.
fn said(text: &str) -> String {
    let body: Option<Value> = serde_json::from_str(text).ok();
    let field = |name: &str| Some(body.as_ref()?.get(name)?.as_str()?.to_owned());
    mistakes(body.as_ref())
        .or_else(|| field("msg"))
        .or_else(|| field("title"))
        .unwrap_or_else(|| text.chars().take(200).collect())
}

/// The keys that are wrong, one a line.
fn mistakes(body: Option<&Value>) -> Option<String> {
    let errors = body?.get("data")?.get("errors")?.as_array()?;
    let line = |error: &Value| {
        let loc = error["loc"].as_array()?;
        let keys: Vec<&str> = loc.iter().filter_map(Value::as_str).collect();
        Some(format!("\n{}: {}", keys.join("."), error["msg"].as_str()?))
    };
    let lines: String = errors.iter().filter_map(line).collect();
    (!lines.is_empty()).then_some(lines)
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
