//! What one request gathers on its way through the proxy.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use patchbay_common::lifecycle::InFlight;
use patchbay_common::request_id::RequestId;
use tokio_util::sync::CancellationToken;

use crate::conduct::{Grpc, Pace, Tokens};
use crate::error::Refusal;
use crate::gateway::Visit;
use crate::metrics::OpenEvents;
use crate::stage::{Client, Right};
use crate::target::Target;
use crate::tunnel::Admission;
use crate::upstream::{Picked, Upstream};

/// Most upstreams tried for one request.
pub const MAX_ATTEMPTS: usize = patchbay_common::gateway::MOST_RETRIES + 1;

/// State of one request; made when its head has been read.
#[derive(Debug)]
pub struct Context {
    /// When its head had been read.
    pub started: Instant,
    /// The engine only moves bytes: what needs more is for the other one.
    pub lean: bool,
    /// Its id; `None` until the first stage has run.
    pub request_id: Option<RequestId>,
    /// Who sent it.
    pub client: Option<Client>,
    /// Its method, kept because a spliced connection takes the head with it.
    pub method: Cow<'static, str>,
    /// Its path without the query, which may hold secrets.
    pub path: String,
    /// What it is sent to.
    pub target: Option<Target>,
    /// The kind of gRPC it speaks, if it does.
    pub grpc: Option<Grpc>,
    /// Its way through the gateway, if it came there.
    pub visit: Option<Box<Visit>>,
    /// The trace it belongs to (`traceparent`).
    pub trace: Option<Box<str>>,
    /// By what right.
    pub right: Option<Right>,
    /// By what right, where it goes through a tunnel.
    pub admission: Option<Admission>,
    /// Path and query as the upstream is to see them, where they are not the client's.
    pub forward_target: Option<String>,
    /// Where it is sent.
    pub picked: Option<Picked>,
    /// Where sending it failed.
    pub tried: Vec<Arc<Upstream>>,
    /// Most bytes its body may have; 0 means no limit.
    pub body_limit: u64,
    /// Bytes of it that have come, where there is a limit.
    pub body_received: u64,
    /// What went wrong there, one for each.
    pub faults: Vec<&'static str>,
    /// Why it was not carried.
    pub refusal: Option<Refusal>,
    /// Follows a model's answer.
    pub tokens: Option<Tokens>,
    /// Its answer is a stream of events, and counted as open.
    pub events: Option<OpenEvents>,
    /// The watch over its time-outs, if it has any.
    pub pace: Option<Pace>,
    /// What became of a connection that was taken out of the proxy's hands.
    pub spliced: Option<Spliced>,
    /// Time to the first byte of the answer's head.
    pub first_byte: Option<Duration>,
    /// When the circuit was last marked as used.
    pub marked: Instant,
    /// Holds up a drain until the request has ended.
    pub in_flight: Option<InFlight>,
}

/// The account of a spliced connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spliced {
    /// Bytes from the client to the app.
    pub sent: u64,
    /// Bytes from the app to the client.
    pub received: u64,
    /// How it ended.
    pub end: SpliceEnd,
}

/// How a spliced connection ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpliceEnd {
    /// Both sides said good-bye.
    #[default]
    Finished,
    /// One side broke off.
    Broken,
    /// The circuit was closed.
    CircuitClosed,
    /// The grant it was opened by was revoked.
    Revoked,
    /// Nothing moved for too long.
    Idle,
}

impl SpliceEnd {
    /// The end of what had to end for this reason.
    pub fn stopped(why: Refusal) -> Self {
        match why {
            Refusal::Revoked => Self::Revoked,
            _ => Self::CircuitClosed,
        }
    }

    /// What the ends of a WebSocket are told (RFC 6455 §7.4.1).
    pub fn close_code(self) -> (u16, &'static str) {
        match self {
            Self::Finished => (1000, ""),
            Self::Broken => (1001, "the other side broke off"),
            Self::CircuitClosed => (1001, "the app was closed"),
            Self::Revoked => (1008, "the permit was revoked"),
            Self::Idle => (1001, "idle for too long"),
        }
    }

    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Broken => "broken",
            Self::CircuitClosed => "circuit-closed",
            Self::Revoked => "revoked",
            Self::Idle => "idle-time-out",
        }
    }
}

impl Context {
    /// A request begins.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            lean: false,
            marked: now,
            request_id: None,
            client: None,
            method: Cow::Borrowed(""),
            path: String::new(),
            target: None,
            grpc: None,
            visit: None,
            trace: None,
            right: None,
            admission: None,
            forward_target: None,
            picked: None,
            tried: Vec::new(),
            faults: Vec::new(),
            body_limit: 0,
            body_received: 0,
            refusal: None,
            tokens: None,
            events: None,
            pace: None,
            spliced: None,
            first_byte: None,
            in_flight: None,
        }
    }

    /// The request's id. One is made if a request failed before its first stage.
    pub fn id(&mut self) -> RequestId {
        self.request_id
            .get_or_insert_with(RequestId::generate)
            .clone()
    }

    /// Cancelled when the request has to end: its circuit closes, its right is revoked.
    pub fn stop(&self) -> CancellationToken {
        if let Some(pace) = &self.pace {
            return pace.stop().clone();
        }
        match (&self.right, &self.target) {
            (Some(right), _) => right.hold.stop().clone(),
            (None, Some(target)) => target.closed().clone(),
            (None, None) => CancellationToken::new(),
        }
    }

    /// Why the request has to end, if it has.
    pub fn stopped(&self) -> Option<Refusal> {
        let closed = |target: &Target| target.closed().is_cancelled();
        if self.target.as_ref().is_some_and(closed) {
            return Some(Refusal::CircuitClosed);
        }
        let revoked = |right: &Right| right.hold.stop().is_cancelled();
        if self.right.as_ref().is_some_and(revoked) {
            return Some(Refusal::Revoked);
        }
        self.pace.as_ref()?.fired().map(Refusal::TimedOut)
    }

    /// The client's address.
    pub fn client_address(&self) -> Option<SocketAddr> {
        self.client.map(|client| client.address)
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}
