//! The control calls (docs/TUNNELS.md).

use std::time::Duration;

use patchbay_common::config::Secret;
use patchbay_common::tunnel::{AgentRequest, Dispatch, Pulled, Registered, Respond, UPGRADE, path};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Upgraded};
use serde_json::json;
use tokio::time::timeout;

use crate::config::Config;

/// Longest a call may take that does not wait by intention.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest a connection to the gateway may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Speaks to the gateway.
#[derive(Clone, Debug)]
pub struct Control {
    client: Client,
    gateway: String,
    token: Secret,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The gateway cannot be reached.
    #[error("the gateway cannot be reached: {0}")]
    Unreachable(String),
    /// The gateway does not know the session.
    #[error("the gateway does not know the session (any more)")]
    Session,
    /// The gateway refused.
    #[error("the gateway refused ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// The connection was not upgraded: something between does not let it through.
    #[error("the connection was not upgraded ({0})")]
    NotUpgraded(StatusCode),
}

impl From<reqwest::Error> for CallError {
    /// The innermost cause says what an operator has to look at.
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        Self::Unreachable(cause.to_string().chars().take(300).collect())
    }
}

impl Control {
    /// For the gateway at this URL.
    ///
    /// # Errors
    /// If a certificate is not one.
    pub fn new(config: &Config, gateway: &str) -> Result<Self, reqwest::Error> {
        // HTTP/1: only there can a connection be upgraded. Proxies are taken from the environment.
        let mut builder = Client::builder()
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT)
            .user_agent(concat!("patchbay-agent/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = &config.ca {
            for certificate in reqwest::Certificate::from_pem_bundle(pem)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        Ok(Self {
            client: builder.build()?,
            gateway: gateway.to_owned(),
            token: config.token.clone(),
        })
    }

    /// Its URL.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.gateway)
    }

    /// Begins a session.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn register(&self, config: &Config) -> Result<Registered, CallError> {
        let tunnels: Vec<_> = config
            .tunnels
            .iter()
            .map(|tunnel| {
                json!({
                    "id": tunnel.id,
                    "token": tunnel.visitor_token.as_ref().map(Secret::expose),
                    "kind": tunnel.kind(),
                })
            })
            .collect();
        let body = json!({
            "agent_id": config.id,
            "token": self.token.expose(),
            "tunnels": tunnels,
        });
        let call = self.client.post(self.url(path::REGISTER)).json(&body);
        Ok(self.call(call).await?.json().await?)
    }

    /// Ends a session.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn leave(&self, session: &str) -> Result<(), CallError> {
        self.tell(path::LEAVE, session).await
    }

    /// Asks for no new requests.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn drain(&self, session: &str) -> Result<(), CallError> {
        self.tell(path::DRAIN, session).await
    }

    async fn tell(&self, path: &str, session: &str) -> Result<(), CallError> {
        let body = AgentRequest {
            session_id: session.to_owned(),
        };
        self.call(self.client.post(self.url(path)).json(&body))
            .await?;
        Ok(())
    }

    /// Waits for requests.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn pull(&self, session: &str, wait: u64) -> Result<Vec<Dispatch>, CallError> {
        let url = format!("{}?wait={wait}", self.url(path::PULL));
        let call = self.client.get(url).bearer_auth(session);
        let call = call.timeout(PATIENCE + Duration::from_secs(wait));
        let pulled: Pulled = checked(call.send().await?).await?.json().await?;
        Ok(pulled.requests)
    }

    /// Answers a request.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn respond(&self, answer: &Respond) -> Result<(), CallError> {
        let call = self.client.post(self.url(path::RESPOND)).json(answer);
        checked(call.send().await?).await?;
        Ok(())
    }

    /// Connects, and has the connection upgraded to the multiplexed one.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn connect(&self, session: &str) -> Result<Upgraded, CallError> {
        let call = self
            .client
            .get(self.url(path::CONNECT))
            .bearer_auth(session)
            .header("connection", "Upgrade")
            .header("upgrade", UPGRADE);
        let answer = match timeout(PATIENCE, call.send()).await {
            Ok(answer) => answer?,
            Err(_) => return Err(CallError::NotUpgraded(StatusCode::REQUEST_TIMEOUT)),
        };
        match answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => Ok(answer.upgrade().await?),
            StatusCode::NOT_FOUND => Err(CallError::Session),
            status => Err(CallError::NotUpgraded(status)),
        }
    }

    async fn call(&self, call: RequestBuilder) -> Result<Response, CallError> {
        checked(call.timeout(PATIENCE).send().await?).await
    }
}

async fn checked(answer: Response) -> Result<Response, CallError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let text = answer.text().await.unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let message = json["msg"].as_str().unwrap_or("no reason was given");
    let message: String = message.chars().take(300).collect();
    Err(match status {
        StatusCode::NOT_FOUND => CallError::Session,
        // What stands in front of a gateway that is away.
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT | StatusCode::SERVICE_UNAVAILABLE => {
            CallError::Unreachable(format!("{status}: {message}"))
        }
        _ => CallError::Refused { status, message },
    })
}
