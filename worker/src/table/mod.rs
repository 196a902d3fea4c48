//! The door between facts and requests: `sync` writes circuits in, requests look them up.
//!
//! One writer at a time, any number of readers, none of which waits for a writer's longer work:
//! each index is a sharded map, each entry an `Arc` that a request keeps for its life. This room
//! refuses to know where facts come from and what a request looks like.

mod grants;
mod known_permit;
mod live;
mod tally;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use patchbay_common::circuit::{Circuit, Slot};
use patchbay_common::event::Change;
use patchbay_common::id::CircuitId;

pub use grants::{Grants, Hold};
pub use known_permit::KnownPermit;
pub use live::LiveCircuit;
pub use tally::Tally;
pub use tokens::{BOUNDS, Distribution, TokenCounts, TokenTally};

use crate::upstream::Prober;

/// All circuits this worker serves.
#[derive(Debug, Default)]
pub struct Table {
    by_id: DashMap<CircuitId, Arc<LiveCircuit>, ahash::RandomState>,
    by_port: DashMap<u16, Arc<LiveCircuit>, ahash::RandomState>,
    by_subdomain: DashMap<Box<str>, Arc<LiveCircuit>, ahash::RandomState>,
    writer: Mutex<()>,
    prober: Arc<Prober>,
}

impl Table {
    /// An empty table, whose upstreams go by the default rules.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty table, whose upstreams go by the rules of `prober`, which watches over them.
    pub fn watched(prober: Arc<Prober>) -> Self {
        Self {
            prober,
            ..Self::default()
        }
    }

    /// What watches over the upstreams of its circuits.
    pub fn prober(&self) -> &Arc<Prober> {
        &self.prober
    }

    /// The circuit at a port, as circuits name it (the advertised port).
    pub fn at_port(&self, port: u16) -> Option<Arc<LiveCircuit>> {
        self.by_port.get(&port).map(|entry| Arc::clone(&entry))
    }

    /// The circuit at a subdomain, which the caller has lower-cased.
    pub fn at_subdomain(&self, subdomain: &str) -> Option<Arc<LiveCircuit>> {
        self.by_subdomain
            .get(subdomain)
            .map(|entry| Arc::clone(&entry))
    }

    /// The circuit of this id.
    pub fn by_id(&self, id: CircuitId) -> Option<Arc<LiveCircuit>> {
        self.by_id.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// All circuits, as of about now.
    pub fn all(&self) -> Vec<Arc<LiveCircuit>> {
        self.by_id.iter().map(|entry| Arc::clone(&entry)).collect()
    }

    /// How many circuits there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Applies one change. Applying it twice does no harm.
    pub fn apply(&self, change: &Change) {
        let _writing = self.writing();
        match change {
            Change::Created(circuits) => {
                for circuit in circuits {
                    self.put(circuit.clone());
                }
            }
            Change::RouteUpdated(circuit, routes) => {
                // The message's routes rule, not the circuit's own (contract/events.md §3).
                let known = self.by_id(circuit.id);
                let mut updated =
                    known.map_or_else(|| Circuit::clone(circuit), |l| l.circuit.clone());
                updated.route_info.clone_from(routes);
                updated.health_check.clone_from(&circuit.health_check);
                updated.revocations.clone_from(&circuit.revocations);
                self.put(updated);
            }
            Change::Removed(circuits) => {
                for circuit in circuits {
                    self.remove(circuit.id);
                }
            }
            Change::Added(_) => {}
        }
    }

    /// Makes these the circuits, closing all others. Circuits that stay keep their connections
    /// and what is known of their upstreams.
    pub fn replace(&self, circuits: Vec<Circuit>) {
        let _writing = self.writing();
        let staying: HashSet<CircuitId> = circuits.iter().map(|circuit| circuit.id).collect();
        let gone: Vec<CircuitId> = self
            .by_id
            .iter()
            .map(|entry| *entry.key())
            .filter(|id| !staying.contains(id))
            .collect();
        for id in gone {
            self.remove(id);
        }
        for circuit in circuits {
            self.put(circuit);
        }
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        // The lock guards no data of its own: a panic under it leaves nothing half-made to fear.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, circuit: Circuit) {
        let Some(slot) = circuit.slot() else {
            log::warn!("circuit {} has no slot: it is not served", circuit.id);
            return;
        };
        let known = self.by_id(circuit.id);
        if let Some(known) = &known {
            if known.circuit == circuit {
                return;
            }
            if known.slot != slot {
                self.unlink(known);
            }
        }
        let rules = self.prober.settings();
        let live = Arc::new(LiveCircuit::new(circuit, slot, rules, known.as_deref()));
        self.prober.watch(&live.upstreams);
        // A slot holds one circuit: whoever had it is gone, even if its removal was lost.
        let previous = match &live.slot {
            Slot::Port(port) => self.by_port.insert(*port, Arc::clone(&live)),
            Slot::Subdomain(name) => self
                .by_subdomain
                .insert(name.as_str().into(), Arc::clone(&live)),
        };
        if let Some(previous) = previous
            && previous.circuit.id != live.circuit.id
        {
            self.by_id.remove(&previous.circuit.id);
            previous.close();
        }
        self.by_id.insert(live.circuit.id, live);
    }

    fn remove(&self, id: CircuitId) {
        if let Some((_, live)) = self.by_id.remove(&id) {
            self.unlink(&live);
            live.close();
        }
    }

    fn unlink(&self, live: &LiveCircuit) {
        let holds = |_: &_, entry: &Arc<LiveCircuit>| entry.circuit.id == live.circuit.id;
        match &live.slot {
            Slot::Port(port) => drop(self.by_port.remove_if(port, holds)),
            Slot::Subdomain(name) => {
                drop(self.by_subdomain.remove_if(name.as_str(), |_, entry| {
                    entry.circuit.id == live.circuit.id
                }))
            }
        }
    }
}
