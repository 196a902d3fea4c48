//! What workers note of a circuit's use (contract/events.md §8).

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_common::circuit::{AppMode, Circuit};

use crate::publish::redis::Redis;

/// How a circuit was used lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Requests since the last idle hour.
    pub requests: u64,
    /// Milliseconds since 1970; the opening where no use is known.
    pub last_access: i64,
    /// Seconds until the circuit counts as idle; inference circuits never do.
    pub ttl: Option<u64>,
}

/// Reads the marks.
#[derive(Clone)]
pub struct Marks {
    redis: Option<Arc<Redis>>,
    idle_after: Duration,
}

impl Marks {
    /// Marks in Redis, where there is one. Circuits are idle after `idle_after` without use.
    pub fn new(redis: Option<Arc<Redis>>, idle_after: Duration) -> Self {
        Self { redis, idle_after }
    }

    /// How a circuit was used, as far as is known.
    pub async fn of(&self, circuit: &Circuit, now: DateTime<Utc>) -> Usage {
        let marks = match &self.redis {
            None => (None, None),
            Some(redis) => redis.marks(circuit.id).await.unwrap_or_else(|error| {
                log::debug!("the marks of a circuit cannot be read: {error}");
                (None, None)
            }),
        };
        usage(circuit, marks, now, self.idle_after)
    }
}

fn usage(
    circuit: &Circuit,
    (last, requests): (Option<f64>, Option<u64>),
    now: DateTime<Utc>,
    idle_after: Duration,
) -> Usage {
    let opened = circuit.created_at.timestamp_millis();
    let last_access = last.map_or(opened, |seconds| (seconds * 1_000.0) as i64);
    let silent = now.timestamp_millis().saturating_sub(last_access);
    let silent = Duration::from_millis(u64::try_from(silent).unwrap_or(0));
    Usage {
        requests: requests.unwrap_or(0),
        last_access,
        ttl: (circuit.app_mode == AppMode::Interactive)
            .then(|| idle_after.saturating_sub(silent).as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_vectors::vectors;

    #[test]
    fn marks_count_from_the_last_use_or_the_opening() {
        let circuit = vectors()["circuit_json"]["interactive"].clone();
        let mut circuit: Circuit = serde_json::from_value(circuit).unwrap();
        circuit.app_mode = AppMode::Interactive;
        let opened = circuit.created_at;
        let idle_after = Duration::from_secs(100);
        let at = |seconds| opened + chrono::TimeDelta::seconds(seconds);
        let fresh = usage(&circuit, (None, None), at(40), idle_after);
        assert_eq!((fresh.requests, fresh.ttl), (0, Some(60)));
        assert_eq!(fresh.last_access, opened.timestamp_millis());
        let last = at(30).timestamp_micros() as f64 / 1e6;
        let used = usage(&circuit, (Some(last), Some(7)), at(40), idle_after);
        assert_eq!((used.requests, used.ttl), (7, Some(90)));
        assert_eq!(used.last_access, at(30).timestamp_millis());
        let late = usage(&circuit, (None, None), at(400), idle_after);
        assert_eq!(late.ttl, Some(0));
        circuit.app_mode = AppMode::Inference;
        assert_eq!(usage(&circuit, (None, None), at(400), idle_after).ttl, None);
    }
}
