//! What a worker's node tells of how its circuits are used (`POST /api/worker/{id}/uses`), where it
//! has no Redis to leave marks in (contract/events.md §8).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::CircuitId;
use crate::timestamp;

/// Most circuits in one report.
pub const MOST_CIRCUITS: usize = 1_000;
/// Most requests that one report tells of a circuit; there is no use in more.
pub const MOST_REQUESTS: u64 = 1_000_000_000;

/// What was used since the report before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UseReport {
    /// The circuits.
    pub circuits: Vec<CircuitUse>,
    /// With this report the node has told all it knew: what it has not named was not used.
    #[serde(default)]
    pub complete: bool,
}

/// The use of one circuit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CircuitUse {
    /// The circuit.
    pub circuit: CircuitId,
    /// When it was last used.
    #[serde(with = "timestamp")]
    pub last: DateTime<Utc>,
    /// Requests and connections since the report before.
    #[serde(default)]
    pub requests: u64,
}

impl UseReport {
    /// The uses by circuit, each circuit once, within the bounds of what is kept. A use in the
    /// future, by a clock that is ahead, is one now.
    pub fn merged(&self, now: DateTime<Utc>) -> Vec<CircuitUse> {
        let mut all: std::collections::BTreeMap<CircuitId, CircuitUse> = Default::default();
        for one in &self.circuits {
            let told = CircuitUse {
                last: one.last.min(now),
                requests: one.requests.min(MOST_REQUESTS),
                ..one.clone()
            };
            all.entry(one.circuit)
                .and_modify(|known| {
                    known.last = known.last.max(told.last);
                    known.requests = (known.requests + told.requests).min(MOST_REQUESTS);
                })
                .or_insert(told);
        }
        all.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn a_circuit_counts_once_and_within_bounds() {
        let now = timestamp::now();
        let circuit = CircuitId::random();
        let used = |seconds, requests| CircuitUse {
            circuit,
            last: now + TimeDelta::seconds(seconds),
            requests,
        };
        let report = UseReport {
            circuits: vec![used(-9, 2), used(60, u64::MAX), used(-5, 1)],
            complete: true,
        };
        assert_eq!(report.merged(now), [used(0, MOST_REQUESTS)]);
        let written = serde_json::to_value(&report).unwrap();
        assert_eq!(
            serde_json::from_value::<UseReport>(written).unwrap(),
            report
        );
    }
}
