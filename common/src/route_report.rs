//! What a worker's node tells of its routes (`POST /api/worker/{id}/route-health`): those that are
//! out of service, and nothing of the others. A route that is not named by a node that reports is
//! in service there.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{CircuitId, RouteId, SessionId};
use crate::timestamp;

/// Most routes in one report; there is no use in more.
pub const MOST_ROUTES: usize = 10_000;
/// Longest reason and longest address kept, in characters.
pub const LONGEST_REASON: usize = 300;

/// All that one node has to say at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteReport {
    /// The circuits with routes out of service.
    pub circuits: Vec<CircuitReport>,
    /// There are more than a report holds.
    #[serde(default)]
    pub truncated: bool,
}

/// A circuit with routes out of service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CircuitReport {
    /// The circuit.
    pub circuit: CircuitId,
    /// How many routes it has.
    pub routes: u32,
    /// Those out of service.
    pub down: Vec<DownRoute>,
}

/// A route out of service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DownRoute {
    /// The Manager's name for it, if it has one.
    #[serde(default)]
    pub route: Option<RouteId>,
    /// The session behind it.
    pub session: SessionId,
    /// `host:port`.
    pub address: String,
    /// Since when.
    #[serde(with = "timestamp")]
    pub since: DateTime<Utc>,
    /// What failed last.
    #[serde(default)]
    pub error: Option<String>,
}

impl RouteReport {
    /// The report within its bounds.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let mut room = MOST_ROUTES;
        for circuit in &mut self.circuits {
            self.truncated |= circuit.down.len() > room;
            circuit.down.truncate(room);
            room -= circuit.down.len();
            for route in &mut circuit.down {
                trim(&mut route.address);
                if let Some(error) = &mut route.error {
                    trim(error);
                }
            }
        }
        self.circuits.retain(|circuit| !circuit.down.is_empty());
        self
    }
}

/// Cuts a text to what is kept; no database takes NUL in JSON.
fn trim(text: &mut String) {
    text.retain(|c| c != '\0');
    if let Some((end, _)) = text.char_indices().nth(LONGEST_REASON) {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_bounded_and_says_so() {
        let down = DownRoute {
            route: None,
            session: SessionId::random(),
            address: "10.0.0.1:80".into(),
            since: timestamp::now(),
            error: Some("é".repeat(LONGEST_REASON + 1)),
        };
        let circuit = |count| CircuitReport {
            circuit: CircuitId::random(),
            routes: count as u32,
            down: vec![down.clone(); count],
        };
        let report = RouteReport {
            circuits: vec![circuit(MOST_ROUTES - 1), circuit(2), circuit(1)],
            truncated: false,
        };
        let bounded = report.bounded();
        assert!(bounded.truncated);
        let counts: Vec<_> = bounded.circuits.iter().map(|c| c.down.len()).collect();
        assert_eq!(counts, [MOST_ROUTES - 1, 1]);
        let error = bounded.circuits[0].down[0].error.as_deref().unwrap();
        assert_eq!(error.chars().count(), LONGEST_REASON);
    }
}
