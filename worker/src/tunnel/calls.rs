//! The agents' control calls, and what operators ask for (docs/TUNNELS.md).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use patchbay_common::tunnel::{
    AgentRequest, Granted, Heard, Kind, Pulled, Register, Registered, Respond, Transport, UPGRADE,
    path,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::TunnelError;
use super::registry::Registry;
use super::session::Session;
use super::visitor::{self, Visitors};
use crate::stage::HeaderLookup;

/// Most bytes of a call whose sender is not known to be an agent of ours.
const SMALL_CALL: usize = 64 << 10;
/// Larger calls that are read at a time.
const LARGE_CALLS: usize = 32;

/// A call whose body has been read.
pub struct Call<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
    /// Its query, or empty.
    pub query: &'a str,
    /// Its headers.
    pub headers: &'a (dyn HeaderLookup + Sync),
    /// Where it comes from.
    pub client: IpAddr,
    /// Its body.
    pub body: Vec<u8>,
}

/// An answer to a call.
#[derive(Debug)]
pub struct Reply {
    /// Its type.
    pub content_type: &'static str,
    /// Its body.
    pub body: String,
    /// What is lost if it cannot be delivered.
    delivery: Option<(Arc<Session>, Vec<String>)>,
}

impl Reply {
    fn json(value: &impl Serialize) -> Self {
        Self {
            content_type: "application/json",
            // Our own types: texts for keys, no values that could fail.
            body: serde_json::to_string(value).unwrap_or_default(),
            delivery: None,
        }
    }

    /// The answer to a pull that is cut short.
    pub fn nothing_pulled() -> Self {
        Self::json(&Pulled::default())
    }

    /// The answer could not be written: whoever waits for what was in it is told.
    pub fn lost(self) {
        if let Some((session, requests)) = self.delivery {
            session.queue.undelivered(&requests);
        }
    }
}

/// Answers control calls.
#[derive(Debug)]
pub struct Calls {
    /// Sessions and tunnels.
    pub registry: Arc<Registry>,
    /// One-time links.
    pub visitors: Visitors,
    large: Semaphore,
}

impl Calls {
    /// For these sessions and tunnels.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            visitors: Visitors::default(),
            large: Semaphore::new(LARGE_CALLS),
        }
    }

    /// Whether a path is ours.
    pub fn owns(&self, path: &str) -> bool {
        path == path::HEALTH
            || path == path::TUNNELS
            || path == path::RELAY
            || path.starts_with(path::AGENT)
            || path
                .strip_prefix(path::TUNNELS)
                .is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether the connection is to be upgraded to the multiplexed one.
    pub fn is_upgrade(&self, headers: &dyn HeaderLookup) -> bool {
        headers
            .get("upgrade")
            .is_some_and(|value| value.eq_ignore_ascii_case(UPGRADE.as_bytes()))
    }

    /// Most bytes a call may have.
    pub fn limit(&self, path: &str) -> usize {
        if path == path::RESPOND {
            self.registry.settings.max_call()
        } else {
            SMALL_CALL
        }
    }

    /// What a call needs to be read further than its first 64 KiB: not everybody at once may fill
    /// our memory.
    ///
    /// # Errors
    /// [`TunnelError::Full`].
    pub fn read_on(
        &self,
        so_far: usize,
    ) -> Result<Option<tokio::sync::SemaphorePermit<'_>>, TunnelError> {
        if so_far <= SMALL_CALL {
            return Ok(None);
        }
        self.large
            .try_acquire()
            .map(Some)
            .map_err(|_| TunnelError::Full)
    }

    /// Answers a call.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn answer(&self, call: Call<'_>) -> Result<Reply, TunnelError> {
        match call.path {
            path::REGISTER => {
                method(&call, "POST")?;
                self.register(call).await
            }
            path::PULL => {
                method(&call, "GET")?;
                self.pull(&call).await
            }
            path::RESPOND => {
                method(&call, "POST")?;
                let respond: Respond = parse(&call.body)?;
                let session = self.registry.session(&respond.session_id)?;
                session.hear();
                session.queue.answer(respond)?;
                Ok(Reply::json(&Heard { ok: true }))
            }
            path::HEARTBEAT => self.heard(&call, |session| session.hear()),
            path::DRAIN => self.heard(&call, |session| {
                session.hear();
                session.drain();
            }),
            path::LEAVE => self.heard(&call, |session| self.registry.end(session)),
            path::CONNECT | path::RELAY => Err(TunnelError::Upgrade),
            path::HEALTH => {
                method(&call, "GET")?;
                Ok(Reply::json(&json!({
                    "status": "ok",
                    "version": env!("CARGO_PKG_VERSION"),
                    "agents": self.registry.sessions().len(),
                    "tunnels": self.registry.tunnels().iter()
                        .filter(|lent| !lent.holders().is_empty()).count(),
                })))
            }
            path::TUNNELS => {
                method(&call, "GET")?;
                self.operator(call.client)?;
                Ok(Reply::json(&self.registry.facts()))
            }
            "/" => {
                method(&call, "GET")?;
                self.operator(call.client)?;
                Ok(Reply {
                    content_type: "text/html; charset=utf-8",
                    body: include_str!("dashboard.html").to_owned(),
                    delivery: None,
                })
            }
            other => self.link(&call, other),
        }
    }

    async fn register(&self, call: Call<'_>) -> Result<Reply, TunnelError> {
        let register: Register = parse(&call.body)?;
        let bearer = bearer(call.headers);
        let token = match register.token.expose() {
            "" => bearer.as_deref().unwrap_or_default(),
            token => token,
        };
        let registry = &self.registry;
        let session = registry
            .register(register.agent_id, token, register.tunnels)
            .await?;
        let tunnels = session.offers.iter().map(|offer| Granted {
            id: offer.id.clone(),
            path: match offer.kind {
                Kind::Http => format!("/t/{}/", offer.id),
                Kind::Tcp => String::new(),
            },
        });
        Ok(Reply::json(&Registered {
            session_id: session.id.clone(),
            agent_id: session.agent.clone(),
            tunnels: tunnels.collect(),
            transports: vec![Transport::Mux, Transport::Poll],
            limits: registry.settings.limits(),
        }))
    }

    async fn pull(&self, call: &Call<'_>) -> Result<Reply, TunnelError> {
        let id = query(call.query, "session_id").or_else(|| bearer(call.headers));
        let session = self.registry.session(&id.unwrap_or_default())?;
        let longest = self.registry.settings.max_wait();
        let wait = match query(call.query, "wait") {
            None => longest,
            Some(text) => text
                .parse()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .ok_or_else(|| TunnelError::Malformed("wait must be a number of seconds".into()))?
                .min(longest),
        };
        session.hear();
        session.polls();
        let requests = session.queue.pull(wait).await?;
        session.hear();
        let ids = requests.iter().map(|one| one.request_id.clone()).collect();
        let mut reply = Reply::json(&Pulled { requests });
        reply.delivery = Some((session, ids));
        Ok(reply)
    }

    fn heard(
        &self,
        call: &Call<'_>,
        act: impl FnOnce(&Arc<Session>),
    ) -> Result<Reply, TunnelError> {
        method(call, "POST")?;
        let request: AgentRequest = parse(&call.body)?;
        act(&self.registry.session(&request.session_id)?);
        Ok(Reply::json(&Heard { ok: true }))
    }

    /// The session whose multiplexed connection this call wants to be.
    ///
    /// # Errors
    /// [`TunnelError::Session`].
    pub fn connecting(
        &self,
        query_text: &str,
        headers: &dyn HeaderLookup,
    ) -> Result<Arc<Session>, TunnelError> {
        let id = bearer(headers).or_else(|| query(query_text, "session_id"));
        self.registry.session(&id.unwrap_or_default())
    }

    /// Whether the connection comes from another gateway of our coordinator's.
    ///
    /// # Errors
    /// [`TunnelError::Gateway`].
    pub fn another_gateway(&self, headers: &dyn HeaderLookup) -> Result<(), TunnelError> {
        let shown = bearer(headers).unwrap_or_default();
        match self.registry.admits_gateway(&shown) {
            true => Ok(()),
            false => Err(TunnelError::Gateway),
        }
    }

    fn operator(&self, client: IpAddr) -> Result<(), TunnelError> {
        let client = client.to_canonical();
        let networks = &self.registry.settings.operators;
        if networks.iter().any(|network| network.contains(&client)) {
            Ok(())
        } else {
            Err(TunnelError::Operators)
        }
    }

    /// `POST /api/tunnels/{id}/link`: for operators, and for who has the visitor token.
    fn link(&self, call: &Call<'_>, path: &str) -> Result<Reply, TunnelError> {
        let id = path
            .strip_prefix(path::TUNNELS)
            .and_then(|rest| rest.strip_prefix('/')?.strip_suffix("/link"))
            .and_then(|id| id.parse().ok())
            .ok_or(TunnelError::Nothing)?;
        method(call, "POST")?;
        let lent = self.registry.tunnel(&id).ok_or(TunnelError::Nothing)?;
        let visitors = lent.visitors();
        let admission = visitor::admit(&id, visitors.as_ref(), call.headers, u64::MAX);
        if admission == visitor::Admission::Refused {
            self.operator(call.client)?;
        }
        let link = self.visitors.link(&id).ok_or(TunnelError::Full)?;
        Ok(Reply::json(
            &json!({ "link": link, "expires_seconds": 600 }),
        ))
    }
}

fn method(call: &Call<'_>, wanted: &'static str) -> Result<(), TunnelError> {
    if call.method == wanted {
        Ok(())
    } else {
        Err(TunnelError::Method(wanted))
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, TunnelError> {
    let malformed = |cause: serde_json::Error| TunnelError::Malformed(cause.to_string());
    let value: Value = serde_json::from_slice(body).map_err(malformed)?;
    serde_json::from_value(value).map_err(malformed)
}

/// A value of the query. Ours hold nothing that would have to be escaped.
fn query(query: &str, name: &str) -> Option<String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}

fn bearer(headers: &dyn HeaderLookup) -> Option<String> {
    let value = std::str::from_utf8(headers.get("authorization")?).ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned())
}
