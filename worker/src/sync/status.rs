//! How the room is doing, for readiness, health and metrics.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use patchbay_common::id::WorkerId;
use patchbay_common::timestamp;
use tokio::sync::watch;

/// How the worker's knowledge of its circuits stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// The worker's key, once it is registered.
    pub worker: Option<WorkerId>,
    /// The circuits were fetched at least once: traffic can be carried.
    pub ready: bool,
    /// The table holds every change up to here; `None` before the first fetch and with a Python
    /// coordinator.
    pub generation: Option<u64>,
    /// Changes that were heard of and are not in the table.
    pub lag: u64,
    /// When everything was last fetched.
    pub last_fetch: Option<Instant>,
    /// How often everything was fetched.
    pub fetches: u64,
    /// How many circuits events have announced.
    pub opened: u64,
    /// Where Redis stands; `None` if none is configured.
    pub redis: Option<RedisState>,
    /// The coordinator's event stream is open.
    pub streaming: bool,
    /// The last word about Redis.
    pub redis_reach: Reach,
    /// The last word about the coordinator.
    pub coordinator_reach: Reach,
}

/// Where the subscription on Redis stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisState {
    /// Not subscribed since this moment.
    Down(Instant),
    /// Subscribed for the n-th time; what was missed before is not fetched yet.
    Subscribed(u64),
    /// Subscribed, and nothing missed.
    Current,
}

/// The means by which changes are heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// Publish/subscribe on Redis.
    Redis,
    /// The coordinator's own stream.
    Stream,
    /// Neither at the moment.
    None,
}

impl Bus {
    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Stream => "stream",
            Self::None => "none",
        }
    }
}

/// Whether a peer could be reached when it was last tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    /// It could.
    pub healthy: bool,
    /// When it was tried.
    pub checked_at: DateTime<Utc>,
    /// Why it could not.
    pub error: Option<String>,
}

impl Reach {
    fn untried() -> Self {
        Self {
            healthy: false,
            checked_at: timestamp::now(),
            error: Some("not reached yet".into()),
        }
    }

    pub(super) fn ok() -> Self {
        Self {
            healthy: true,
            checked_at: timestamp::now(),
            error: None,
        }
    }

    pub(super) fn failed(cause: &dyn std::fmt::Display) -> Self {
        Self {
            healthy: false,
            checked_at: timestamp::now(),
            error: Some(cause.to_string()),
        }
    }
}

impl Status {
    /// The bus in use.
    pub fn bus(&self) -> Bus {
        match self.redis {
            Some(RedisState::Current | RedisState::Subscribed(_)) => Bus::Redis,
            _ if self.streaming => Bus::Stream,
            _ => Bus::None,
        }
    }
}

/// Where the room's tasks write their part of the status.
#[derive(Clone, Debug)]
pub(super) struct Board(Arc<watch::Sender<Status>>);

impl Board {
    pub(super) fn new(with_redis: bool) -> Self {
        Self(Arc::new(watch::Sender::new(Status {
            worker: None,
            ready: false,
            generation: None,
            lag: 0,
            last_fetch: None,
            fetches: 0,
            opened: 0,
            redis: with_redis.then(|| RedisState::Down(Instant::now())),
            streaming: false,
            redis_reach: Reach::untried(),
            coordinator_reach: Reach::untried(),
        })))
    }

    pub(super) fn write(&self, change: impl FnOnce(&mut Status)) {
        self.0.send_modify(change);
    }

    pub(super) fn read(&self) -> Status {
        self.0.borrow().clone()
    }

    pub(super) fn worker(&self) -> Option<WorkerId> {
        self.0.borrow().worker
    }

    pub(super) fn watch(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    /// Waits until the status is so; for ever if it never is.
    pub(super) async fn until(&self, so: impl FnMut(&Status) -> bool) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.watch().wait_for(so).await;
    }
}
