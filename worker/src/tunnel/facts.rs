//! What operators see: counts of each tunnel, and the last requests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use patchbay_common::tunnel::{Kind, Transport};
use serde::Serialize;
use serde_json::{Value, json};

use super::registry::{Lent, Registry};

/// Requests remembered.
const RECENT: usize = 100;
/// Longest path remembered.
const MAX_PATH: usize = 200;

/// Counts of one tunnel.
#[derive(Debug, Default)]
pub struct Account {
    requests: AtomicU64,
    errors: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    micros: AtomicU64,
    last_status: AtomicU16,
    last_at: AtomicU64,
}

/// One request that went through a tunnel.
#[derive(Clone, Debug, Serialize)]
pub struct Recent {
    /// When it had been answered, Unix seconds.
    pub at: f64,
    /// The tunnel's name.
    pub tunnel: String,
    /// Its id.
    pub request_id: String,
    /// Its method.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
    /// HTTP status; 0 if nothing was answered.
    pub status: u16,
    /// How long it took.
    pub milliseconds: f64,
    /// Bytes from the visitor.
    pub bytes_in: u64,
    /// Bytes to the visitor.
    pub bytes_out: u64,
}

/// The last requests through tunnels.
#[derive(Debug, Default)]
pub struct RecentRequests(Mutex<VecDeque<Recent>>);

impl RecentRequests {
    fn push(&self, mut one: Recent) {
        if one.path.len() > MAX_PATH {
            one.path = one.path.chars().take(MAX_PATH).collect();
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == RECENT {
            all.pop_front();
        }
        all.push_back(one);
    }

    fn latest_first(&self) -> Vec<Recent> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().rev().cloned().collect()
    }
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs_f64()
}

impl Account {
    /// A request has ended.
    fn note(&self, one: &Recent) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if one.status == 0 || one.status >= 500 {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        self.bytes_in.fetch_add(one.bytes_in, Ordering::Relaxed);
        self.bytes_out.fetch_add(one.bytes_out, Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let micros = (one.milliseconds * 1_000.0) as u64;
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.last_status.store(one.status, Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.last_at.store(one.at as u64, Ordering::Relaxed);
    }

    fn json(&self) -> Value {
        let requests = self.requests.load(Ordering::Relaxed);
        let micros = self.micros.load(Ordering::Relaxed);
        let last = |value: u64| (requests > 0).then_some(value);
        json!({
            "requests": requests,
            "errors": self.errors.load(Ordering::Relaxed),
            "bytes_in": self.bytes_in.load(Ordering::Relaxed),
            "bytes_out": self.bytes_out.load(Ordering::Relaxed),
            "average_latency_ms": last(micros)
                .map(|micros| micros as f64 / 1_000.0 / requests as f64),
            "last_status": last(u64::from(self.last_status.load(Ordering::Relaxed))),
            "last_request_at": last(self.last_at.load(Ordering::Relaxed)),
        })
    }
}

impl Registry {
    /// A request through a tunnel has ended.
    pub fn note(&self, lent: &Lent, mut one: Recent) {
        one.at = unix(SystemTime::now());
        lent.account.note(&one);
        self.recent.push(one);
    }

    /// All tunnels and the last requests, as JSON (docs/TUNNELS.md).
    pub fn facts(&self) -> Value {
        let tunnels: Vec<Value> = self.tunnels().iter().map(|lent| tunnel(lent)).collect();
        json!({
            "now": unix(SystemTime::now()),
            "tunnels": tunnels,
            "agents": self.sessions().len(),
            "recent": self.recent.latest_first(),
        })
    }
}

fn tunnel(lent: &Lent) -> Value {
    let holders = lent.holders();
    let agents: Vec<Value> = holders
        .iter()
        .map(|session| {
            json!({
                "agent": session.agent,
                "token": session.token,
                "transport": match session.transport() {
                    Transport::Mux => "mux",
                    Transport::Poll => "poll",
                },
                "draining": session.is_draining(),
                "connected_since": unix(session.since),
            })
        })
        .collect();
    let elsewhere = lent.elsewhere.load();
    let gateways: Vec<Value> = elsewhere
        .iter()
        .map(|remote| {
            json!({
                "worker": remote.worker,
                "url": remote.relay.as_ref().map(|relay| &relay.url),
                "agent": remote.holding.agent,
                "generation": remote.holding.generation,
            })
        })
        .collect();
    let mut value = json!({
        "id": lent.id,
        "kind": lent.kind(),
        "path": match lent.kind() {
            Kind::Http => Some(format!("/t/{}/", lent.id)),
            Kind::Tcp => None,
        },
        "online": holders.iter().any(|session| session.is_reachable()) || !elsewhere.is_empty(),
        "gateways": gateways,
        "visitor_token": lent.visitors().is_some(),
        "agents": agents,
        "agent": holders.first().map(|session| session.agent.clone()),
        "connected_since": holders.first().map(|session| unix(session.since)),
    });
    if let (Some(object), Value::Object(counts)) = (value.as_object_mut(), lent.account.json()) {
        object.extend(counts);
    }
    value
}
