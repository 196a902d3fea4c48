//! What a request passes between its route and its service: authentication, rate limit,
//! addresses, CORS, compression, in the order its route names them.
//!
//! A stage knows no engine: it reads a borrowed [`Head`] and leaves what it found in a
//! [`Passage`]. Nothing here blocks. Where a stage has to ask somebody (keys it does not know, an
//! authentication service, a shared limit), it answers [`Step::Wait`]; the engine awaits that and runs the chain
//! again, which goes on where it stopped. A panic in a stage is an internal error of one request.

mod addresses;
mod api_key;
mod compress;
mod cors;
mod forward;
mod jwks;
mod jwt;
mod permissions;
mod rate_limit;
mod shared;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::refusal::GatewayRefusal;
use crate::stage::{Client, Head};

pub use addresses::Addresses;
pub use api_key::{ApiKeys, Holder};
pub use compress::{Compress, Compressing};
pub use cors::Cors;
pub use forward::{ForwardAuth, ForwardSettings, Inquiry};
pub use jwks::{Jwks, JwksSettings};
pub use jwt::{Jwt, JwtSettings, KeySource};
pub use permissions::Required;
pub use rate_limit::{Asking, LimitKey, RateLimit};
pub use shared::{Ledger, NoLedger, Taken, Want};

/// One stage of a chain.
#[derive(Clone, Debug)]
pub enum Stage {
    /// JSON Web Tokens.
    Jwt(Arc<Jwt>),
    /// API keys.
    ApiKey(Arc<ApiKeys>),
    /// Another service decides.
    Forward(Arc<ForwardAuth>),
    /// Rate limit.
    RateLimit(Arc<RateLimit>),
    /// Client addresses.
    Addresses(Arc<Addresses>),
    /// Other origins.
    Cors(Arc<Cors>),
    /// Compressed answers.
    Compress(Arc<Compress>),
    /// A stage with a fault.
    #[cfg(test)]
    Panic,
}

/// The chain of a route.
#[derive(Clone, Debug, Default)]
pub struct Chain(Vec<Stage>);

/// What a chain found out about one request, and where it stands.
#[derive(Debug, Default)]
pub struct Passage {
    at: usize,
    /// The stage at `at` has waited.
    waited: bool,
    reply: Option<forward::Reply>,
    decision: Option<shared::Decision>,
    /// Who asks, where a stage knows.
    pub subject: Option<String>,
    /// By what right, for the log.
    pub credential: Option<&'static str>,
    /// Headers the service is told; a client's own of these names never reach it.
    pub to_service: Vec<(HeaderName, HeaderValue)>,
    /// Headers that carry credentials the service must not see.
    pub hidden: Vec<HeaderName>,
    /// Headers added to any answer.
    pub to_client: Vec<(HeaderName, HeaderValue)>,
    /// How its answer may be compressed.
    pub compressing: Option<Compressing>,
}

/// What is to be done with a request.
#[derive(Debug)]
pub enum Step {
    /// Carry it to its service.
    Carry,
    /// Answer it.
    Answer(Answer),
    /// Refuse it.
    Refuse(GatewayRefusal),
    /// Await this, then run the chain again.
    Wait(Wait),
}

/// An answer of a stage's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, without those about its length.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Vec<u8>,
}

/// What a chain waits for; it owns all it needs and always ends in bounded time.
#[derive(Debug)]
pub enum Wait {
    /// A key nobody knew a moment ago.
    Keys(Arc<Jwks>),
    /// What another service says.
    Inquiry(Box<Inquiry>),
    /// Tokens of a limit that several workers share.
    Tokens(Box<Asking>),
}

impl Wait {
    /// Waits, and leaves the outcome in `passage`.
    pub async fn resolve(self, passage: &mut Passage) {
        match self {
            Self::Keys(keys) => keys.look_again().await,
            Self::Inquiry(inquiry) => passage.reply = Some(inquiry.ask().await),
            Self::Tokens(asking) => passage.decision = Some(asking.ask().await),
        }
        passage.waited = true;
    }
}

impl Chain {
    /// These stages, in this order.
    pub fn new(stages: Vec<Stage>) -> Self {
        Self(stages)
    }

    /// Its stages.
    pub fn stages(&self) -> &[Stage] {
        &self.0
    }

    /// Runs the stages that are left.
    pub fn run(
        &self,
        head: &Head<'_>,
        client: &Client,
        route: &str,
        passage: &mut Passage,
    ) -> Step {
        if self.0.is_empty() {
            return Step::Carry;
        }
        let run = AssertUnwindSafe(|| self.go_on(head, client, route, passage));
        catch_unwind(run).unwrap_or_else(|_| {
            log::error!("a stage of route {route} panicked");
            Step::Refuse(GatewayRefusal::Panic)
        })
    }

    fn go_on(&self, head: &Head<'_>, client: &Client, route: &str, passage: &mut Passage) -> Step {
        while let Some(stage) = self.0.get(passage.at) {
            match stage.run(head, client, route, passage) {
                Ok(None) => {
                    passage.at += 1;
                    passage.waited = false;
                }
                Ok(Some(step)) => return step,
                Err(refusal) => return Step::Refuse(refusal),
            }
        }
        Step::Carry
    }
}

impl Stage {
    /// `None` lets the request pass.
    fn run(
        &self,
        head: &Head<'_>,
        client: &Client,
        route: &str,
        passage: &mut Passage,
    ) -> Result<Option<Step>, GatewayRefusal> {
        match self {
            Self::Jwt(jwt) => jwt.run(head, passage),
            Self::ApiKey(keys) => keys.run(head, passage),
            Self::Forward(service) => service.run(head, client, passage),
            Self::RateLimit(limit) => limit.run(head, client, route, passage),
            Self::Addresses(addresses) => addresses.run(client),
            Self::Cors(cors) => cors.run(head, passage),
            Self::Compress(compress) => compress.run(head, passage),
            #[cfg(test)]
            Self::Panic => panic!("a fault"),
        }
    }

    /// Headers by which this stage tells the service who asks.
    pub fn identity_headers(&self) -> Vec<HeaderName> {
        match self {
            Self::Jwt(jwt) => jwt.identity_headers(),
            Self::ApiKey(keys) => keys.identity_headers(),
            Self::Forward(service) => service.identity_headers(),
            _ => Vec::new(),
        }
    }

    /// Whether it finds out who asks.
    pub fn authenticates(&self) -> bool {
        matches!(self, Self::Jwt(_) | Self::ApiKey(_) | Self::Forward(_))
    }

    /// Begins what the stage does beside requests; needs a runtime, and may be called again.
    pub fn start(&self) {
        match self {
            Self::Jwt(jwt) => jwt.start(),
            Self::RateLimit(limit) => limit.start(),
            _ => {}
        }
    }
}

/// Text as a header's value; what cannot stand in one becomes a question mark.
fn header_value(text: &str) -> HeaderValue {
    let clean = |c: char| if c.is_control() { '?' } else { c };
    let bytes = text.chars().map(clean).collect::<String>();
    HeaderValue::from_bytes(bytes.as_bytes()).unwrap_or(HeaderValue::from_static("?"))
}

/// The value of a cookie.
pub fn cookie<'a>(head: &'a Head<'_>, name: &str) -> Option<&'a str> {
    let mut found = None;
    head.headers.each("cookie", &mut |line| {
        let pairs = line.split(|byte| *byte == b';');
        for pair in pairs.filter_map(|pair| std::str::from_utf8(pair).ok()) {
            if let Some((key, value)) = pair.trim().split_once('=')
                && key == name
                && found.is_none()
            {
                found = Some(value.trim_matches('"'));
            }
        }
    });
    found
}

/// A request to switch protocols: no browser checks its origin for us.
fn is_upgrade(head: &Head<'_>) -> bool {
    head.headers.get("upgrade").is_some()
}
