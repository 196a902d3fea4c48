//! All circuits of the worker, as `GET /api/worker/{id}/circuits` answers.

use patchbay_common::circuit::Circuit;
use serde::Deserialize;
use serde_json::Value;

/// The worker's circuits at one moment.
#[derive(Clone, Debug, Deserialize)]
pub struct Snapshot {
    /// The circuits that could be read.
    pub circuits: Vec<Circuit>,
    /// The generation they stand at; a Python coordinator names none.
    #[serde(default)]
    pub generation: Option<u64>,
    /// How many could not be read.
    #[serde(skip)]
    pub unreadable: usize,
}

#[derive(Deserialize)]
struct Loose {
    circuits: Vec<Value>,
    #[serde(default)]
    generation: Option<u64>,
}

impl Snapshot {
    /// Reads the answer. A circuit that cannot be read (a protocol of a later release, say) costs
    /// itself, not the others.
    ///
    /// # Errors
    /// What is wrong with the answer as a whole.
    pub fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        if let Ok(all) = serde_json::from_slice(body) {
            return Ok(all);
        }
        let loose: Loose = serde_json::from_slice(body)?;
        let total = loose.circuits.len();
        let readable = loose.circuits.into_iter().filter_map(|value| {
            let id = value.get("id").cloned().unwrap_or_default();
            serde_json::from_value(value)
                .inspect_err(|cause| log::warn!("circuit {id} is not understood: {cause}"))
                .ok()
        });
        let circuits: Vec<Circuit> = readable.collect();
        Ok(Self {
            unreadable: total - circuits.len(),
            circuits,
            generation: loose.generation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::trial::circuit;

    #[test]
    fn an_unreadable_circuit_costs_itself_only() {
        let good = circuit(10_205);
        let mut bad = serde_json::to_value(&good).unwrap();
        bad["protocol"] = "carrier-pigeon".into();
        let body = serde_json::json!({"circuits": [bad, &good], "generation": 7, "more": true});
        let snapshot = Snapshot::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(snapshot.circuits, vec![good]);
        assert_eq!((snapshot.generation, snapshot.unreadable), (Some(7), 1));
        assert!(Snapshot::parse(b"{}").is_err());
    }

    #[test]
    fn a_python_answer_has_no_generation() {
        let snapshot = Snapshot::parse(br#"{"circuits": []}"#).unwrap();
        assert_eq!(snapshot.generation, None);
    }
}
