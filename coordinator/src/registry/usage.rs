//! What workers note of a circuit's use (contract/events.md §8).

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_common::circuit::{AppMode, Circuit};
use patchbay_common::id::WorkerId;
use patchbay_common::timestamp;
use patchbay_common::use_report::UseReport;

use crate::publish::redis::Redis;
use crate::store::{Store, StoreError};

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

/// Reads the marks: those in Redis where there is one, else those that workers have told.
#[derive(Clone)]
pub struct Marks {
    store: Arc<dyn Store>,
    redis: Option<Arc<Redis>>,
    idle_after: Duration,
}

impl Marks {
    /// Marks in Redis, where there is one, else in the store. Circuits are idle after `idle_after`
    /// without use.
    pub fn new(store: Arc<dyn Store>, redis: Option<Arc<Redis>>, idle_after: Duration) -> Self {
        Self {
            store,
            redis,
            idle_after,
        }
    }

    /// Notes what a node tells of uses: in Redis too, where there is one, since there everybody
    /// else looks. False if there is no such worker.
    ///
    /// # Errors
    /// A failing store.
    pub async fn note(
        &self,
        worker: WorkerId,
        node: Option<&str>,
        report: &UseReport,
    ) -> Result<bool, StoreError> {
        if let Some(redis) = &self.redis
            && let Err(error) = redis.note(&report.merged(timestamp::now())).await
        {
            log::debug!("uses cannot be noted in redis: {error}");
        }
        self.store.note_uses(worker, node, report).await
    }

    /// How a circuit was used, as far as is known.
    pub async fn of(&self, circuit: &Circuit, now: DateTime<Utc>) -> Usage {
        let marks = match &self.redis {
            None => self.told(circuit).await,
            Some(redis) => redis.marks(circuit.id).await.unwrap_or_else(|error| {
                log::debug!("the marks of a circuit cannot be read: {error}");
                (None, None)
            }),
        };
        usage(circuit, marks, now, self.idle_after)
    }

    async fn told(&self, circuit: &Circuit) -> (Option<f64>, Option<u64>) {
        match self.store.uses(&[circuit.id]).await {
            Ok(uses) => uses.first().map_or((None, None), |used| {
                (Some(seconds(used.last)), Some(used.requests))
            }),
            Err(error) => {
                log::debug!("the uses of a circuit cannot be read: {error}");
                (None, None)
            }
        }
    }
}

/// A moment in seconds since 1970.
pub(crate) fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
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
