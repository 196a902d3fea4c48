//! Fail-over: circuits of lost workers go where the address their users hold leads as well.
//!
//! A round looks at what is so, not at what happened: a coordinator that dies in the middle of one
//! leaves nothing but work for the next. What cannot go anywhere stays with its worker and works
//! again when that returns.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_common::circuit::Circuit;
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::worker::{Worker, WorkerStatus};
use tokio::time::Instant;

use super::announce;
use super::place;
use crate::publish::Bus;
use crate::store::{Actor, Cause, Moved, Reason, Store, StoreError};

/// Circuits moved in one transaction.
const BATCH: usize = 256;
/// Pause before circuits that found no slot are tried again.
const PAUSE: Duration = Duration::from_secs(15);

/// What is known of a lost worker's circuits that could not go anywhere.
#[derive(Clone, Copy)]
struct Stranded {
    count: usize,
    tried: Instant,
}

/// Moves circuits of lost workers.
pub struct FailOver {
    store: Arc<dyn Store>,
    bus: Bus,
    across_hosts: bool,
    stranded: Mutex<HashMap<WorkerId, Stranded>>,
}

impl FailOver {
    /// A fail-over that moves ports between workers of one advertised host only, or, with
    /// `across_hosts`, to any worker whose range has the port.
    pub fn new(store: Arc<dyn Store>, bus: Bus, across_hosts: bool) -> Self {
        Self {
            store,
            bus,
            across_hosts,
            stranded: Mutex::default(),
        }
    }

    /// Moves what can be moved from workers that are lost and were last heard of before
    /// `silent_since`. One that said good-bye is given the same time to come back, or to let the
    /// streams end that it still carries.
    ///
    /// # Errors
    /// A failing store; the next round goes on from there.
    pub async fn round(&self, silent_since: DateTime<Utc>) -> Result<(), StoreError> {
        let workers = self.store.workers().await?;
        let lost: Vec<&Worker> = workers
            .iter()
            .filter(|worker| {
                worker.status == WorkerStatus::Lost
                    && worker.updated_at < silent_since
                    && worker.occupied_slots > 0
            })
            .collect();
        self.known()
            .retain(|id, _| lost.iter().any(|worker| worker.id == *id));
        if lost.is_empty() {
            return Ok(());
        }
        let filters = self.store.app_filters().await?;
        for worker in lost {
            let heirs = place::heirs(worker, &workers, &filters, self.across_hosts);
            self.empty(worker, heirs).await?;
        }
        Ok(())
    }

    /// Moves one worker's circuits to its heirs.
    async fn empty(&self, lost: &Worker, heirs: Vec<&Worker>) -> Result<(), StoreError> {
        let known = self.known().get(&lost.id).copied();
        let held = usize::try_from(lost.occupied_slots).unwrap_or(0);
        if heirs.is_empty() {
            self.report(lost, held, known);
            return Ok(());
        }
        if known.is_some_and(|known| known.count == held && known.tried.elapsed() < PAUSE) {
            return Ok(());
        }
        let Some(held) = self.store.worker_circuits(lost.id).await? else {
            return Ok(());
        };
        let cause = Cause::now(Actor::Coordinator, Reason::WorkerLost);
        let mut moved = 0;
        for (heir, ids) in share_out(&held.circuits, &heirs) {
            for batch in ids.chunks(BATCH) {
                let done = self
                    .store
                    .move_circuits(lost.id, heir, batch, &cause)
                    .await?;
                moved += done.len();
                self.tell(&done).await;
            }
        }
        if moved > 0 {
            log::warn!(
                worker = lost.authority.as_str(), circuits = moved;
                "circuits of a lost worker moved to other workers"
            );
        }
        self.report(lost, held.circuits.len().saturating_sub(moved), known);
        Ok(())
    }

    async fn tell(&self, moved: &[Moved]) {
        for one in moved {
            self.bus.announce(announce::opened(&one.arrived)).await;
            self.bus.announce(announce::removed(&one.left)).await;
            log::info!(
                circuit = one.left.circuit.id.to_string().as_str(),
                from = one.left.authority.as_str(),
                worker = one.arrived.worker.authority.as_str();
                "circuit moved"
            );
        }
    }

    /// Remembers what stayed, and says so where it is news.
    fn report(&self, lost: &Worker, count: usize, known: Option<Stranded>) {
        if count == 0 {
            self.known().remove(&lost.id);
            return;
        }
        if known.is_none_or(|known| known.count != count) {
            log::warn!(
                worker = lost.authority.as_str(), circuits = count;
                "circuits are unavailable until their worker returns"
            );
        }
        let tried = Instant::now();
        self.known().insert(lost.id, Stranded { count, tried });
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<WorkerId, Stranded>> {
        self.stranded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which circuits go to which heir: each to the one with the fewest that may hold it.
fn share_out(circuits: &[Circuit], heirs: &[&Worker]) -> BTreeMap<WorkerId, Vec<CircuitId>> {
    let mut load: Vec<(i32, &Worker)> = heirs.iter().map(|w| (w.occupied_slots, *w)).collect();
    let mut shares: BTreeMap<WorkerId, Vec<CircuitId>> = BTreeMap::new();
    for circuit in circuits {
        let heir = load
            .iter_mut()
            .filter(|(_, worker)| place::may_inherit(worker, circuit))
            .min_by_key(|(count, worker)| (*count, worker.id));
        if let Some((count, worker)) = heir {
            *count = count.saturating_add(1);
            shares.entry(worker.id).or_default().push(circuit.id);
        }
    }
    shares
}
