//! What became of recent requests: a ring of fixed size that every request leaves a record in,
//! and that `GET /api/explain/{request-id}` looks through.
//!
//! Leaving a record is one short lock on a slot nobody else is at, and texts that are moved, not
//! copied; all the work is done by whoever asks.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_common::id::CircuitId;
use patchbay_common::request_id::RequestId;
use serde_json::{Value, json};

/// A request, or a connection over a TCP circuit.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Its id; `None` in a slot that was never used.
    pub id: Option<RequestId>,
    /// What it was: `http`, `websocket`, `tcp`.
    pub kind: &'static str,
    /// When it ended.
    pub ended: Option<SystemTime>,
    /// Who sent it.
    pub client: Option<SocketAddr>,
    /// Its method.
    pub method: Cow<'static, str>,
    /// Its path, without the query.
    pub path: String,
    /// The circuit it went over.
    pub circuit: Option<CircuitId>,
    /// By what right it was admitted.
    pub credential: Option<&'static str>,
    /// The trace it belonged to.
    pub traceparent: Option<Box<str>>,
    /// Name of the permit or token.
    pub grant: Option<String>,
    /// Where it was sent, and why there.
    pub route: Option<(Arc<str>, &'static str)>,
    /// Where it was sent before, and what went wrong there.
    pub tried: Vec<(Arc<str>, &'static str)>,
    /// Status sent to the client; 0 if none was.
    pub status: u16,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// The whole time.
    pub duration: Duration,
    /// Time to the head of the app's answer.
    pub first_byte: Option<Duration>,
    /// How a stream ended.
    pub end: Option<&'static str>,
    /// What went wrong; names the time-out if it was one.
    pub error: Option<String>,
}

impl Record {
    /// As the API shows it.
    pub fn to_json(&self) -> Value {
        let seconds = |time: Duration| time.as_secs_f64();
        let tried: Vec<Value> = self
            .tried
            .iter()
            .map(|(route, fault)| json!({"route": &**route, "fault": fault}))
            .collect();
        let ended = self
            .ended
            .map(|at| DateTime::<Utc>::from(at).to_rfc3339_opts(SecondsFormat::Millis, true));
        json!({
            "request_id": self.id.as_ref().map(RequestId::as_str),
            "kind": self.kind,
            "ended_at": ended,
            "client": self.client,
            "method": self.method,
            "path": self.path,
            "circuit": self.circuit,
            "admitted_by": self.credential,
            "grant": self.grant,
            "traceparent": self.traceparent,
            "route": self.route.as_ref().map(|(route, _)| &**route),
            "chosen_because": self.route.as_ref().map(|(_, why)| why),
            "tried_before": tried,
            "retries": self.tried.len(),
            "status": self.status,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "duration_seconds": seconds(self.duration),
            "first_byte_seconds": self.first_byte.map(seconds),
            "end": self.end,
            "error": self.error,
        })
    }
}

/// The ring.
#[derive(Debug, Default)]
pub struct Explain {
    slots: Box<[Mutex<Record>]>,
    next: AtomicUsize,
}

impl Explain {
    /// A ring that keeps this many records; 0: none.
    pub fn new(entries: usize) -> Self {
        Self {
            slots: (0..entries).map(|_| Mutex::default()).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// Whether records are kept.
    pub fn is_enabled(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Leaves a record in the place of the oldest.
    pub fn leave(&self, record: Record) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(slot) = self.slots.get(turn % self.slots.len().max(1)) else {
            return;
        };
        let before = std::mem::replace(
            &mut *slot.lock().unwrap_or_else(PoisonError::into_inner),
            record,
        );
        // Freed outside the lock.
        drop(before);
    }

    /// What is known of the requests of this id, the latest first. A client may use an id twice.
    pub fn find(&self, id: &str) -> Vec<Record> {
        let count = self.slots.len();
        let next = self.next.load(Ordering::Relaxed);
        (0..count)
            .filter_map(|back| {
                let index = (next + count - 1 - back % count) % count;
                let record = self.slots[index]
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let is_it = record.id.as_ref().is_some_and(|one| one.as_str() == id);
                is_it.then(|| record.clone())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, status: u16) -> Record {
        Record {
            id: RequestId::parse(id),
            status,
            ..Record::default()
        }
    }

    #[test]
    fn the_latest_are_kept_and_the_latest_comes_first() {
        let explain = Explain::new(3);
        for (id, status) in [("a", 200), ("b", 404), ("a", 502), ("c", 200)] {
            explain.leave(record(id, status));
        }
        let statuses = |id: &str| {
            let found = explain.find(id);
            found.iter().map(|one| one.status).collect::<Vec<_>>()
        };
        assert_eq!(statuses("a"), [502], "the oldest has made room");
        assert_eq!(statuses("b"), [404]);
        explain.leave(record("a", 200));
        assert_eq!(statuses("a"), [200, 502]);
        assert!(statuses("d").is_empty());
        assert_eq!(explain.find("a")[0].to_json()["status"], 200);
    }

    #[test]
    fn none_are_kept_where_none_are_wanted() {
        let explain = Explain::new(0);
        explain.leave(record("a", 200));
        assert!(explain.find("a").is_empty() && !explain.is_enabled());
    }
}
