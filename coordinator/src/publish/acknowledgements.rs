//! What workers say they serve, and who waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use patchbay_common::id::{CircuitId, WorkerId};
use tokio::sync::{Notify, watch};

use crate::store::{Opened, Store};

/// How often a waiting opener asks the store whether the worker acknowledged to another
/// coordinator.
const POLL: Duration = Duration::from_millis(200);
/// Pause after the store refused.
const PAUSE: Duration = Duration::from_millis(200);

/// Gathers acknowledgements from both buses.
#[derive(Default)]
pub struct Acknowledgements {
    /// The highest generation each worker acknowledged to this process.
    generations: DashMap<WorkerId, watch::Sender<u64>>,
    /// Openers that wait for a circuit by its id, which is all that the incumbent's workers tell.
    circuits: DashMap<CircuitId, watch::Sender<bool>>,
    /// Generations that the store has not been told of; one entry a worker.
    unwritten: DashMap<WorkerId, u64>,
    heard: Notify,
    heard_so_far: AtomicU64,
    waits: Option<Waits>,
}

/// Hears of every wait's end: how long it was, or nothing if it was given up.
pub type Waits = Arc<dyn Fn(Option<Duration>) + Send + Sync>;

impl Acknowledgements {
    /// Gathers, and tells how waits end.
    pub fn observed(waits: Waits) -> Self {
        Self {
            waits: Some(waits),
            ..Self::default()
        }
    }

    /// The worker serves everything up to this generation.
    pub fn reached(&self, worker: WorkerId, generation: u64) {
        self.generations
            .entry(worker)
            .or_insert_with(|| watch::channel(0).0)
            .send_if_modified(|known| {
                let more = *known < generation;
                *known = (*known).max(generation);
                more
            });
    }

    /// As [`Acknowledgements::reached`], and the store is to hear of it soon, for openers that wait
    /// at other coordinators.
    pub fn heard(&self, worker: WorkerId, generation: u64) {
        self.heard_so_far.fetch_add(1, Ordering::Relaxed);
        self.reached(worker, generation);
        self.note(worker, generation);
        self.heard.notify_one();
    }

    /// How many were heard since the start.
    pub fn heard_so_far(&self) -> u64 {
        self.heard_so_far.load(Ordering::Relaxed)
    }

    fn note(&self, worker: WorkerId, generation: u64) {
        let mut noted = self.unwritten.entry(worker).or_default();
        *noted = (*noted).max(generation);
    }

    /// Tells the store what was heard, until the process ends: what comes in while it writes goes
    /// with the next write, one for each worker.
    pub async fn write_down(&self, store: &dyn Store) {
        loop {
            self.heard.notified().await;
            let mut batch = Vec::new();
            self.unwritten.retain(|worker, generation| {
                batch.push((*worker, *generation));
                false
            });
            for (worker, generation) in batch {
                if let Err(error) = store.acknowledge(worker, generation).await {
                    log::debug!("an acknowledgement cannot be kept yet: {error}");
                    self.note(worker, generation);
                    self.heard.notify_one();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Some worker serves this circuit.
    pub fn serves(&self, circuit: CircuitId) {
        if let Some(waiting) = self.circuits.get(&circuit) {
            waiting.send_replace(true);
        }
    }

    /// Prepares to wait; to be called before the circuit is announced.
    pub fn expect(self: &Arc<Self>, opened: &Opened) -> Expected {
        let served = self
            .circuits
            .entry(opened.circuit.id)
            .or_insert_with(|| watch::channel(false).0)
            .subscribe();
        let reached = self
            .generations
            .entry(opened.worker.id)
            .or_insert_with(|| watch::channel(0).0)
            .subscribe();
        Expected {
            book: Arc::clone(self),
            worker: opened.worker.id,
            circuit: opened.circuit.id,
            generation: opened.generation,
            ask_at_once: opened.reused,
            served: Some(served),
            reached,
            begun: Instant::now(),
            took: None,
        }
    }
}

/// An opener's wait for its circuit to be served.
pub struct Expected {
    book: Arc<Acknowledgements>,
    worker: WorkerId,
    circuit: CircuitId,
    generation: u64,
    ask_at_once: bool,
    served: Option<watch::Receiver<bool>>,
    reached: watch::Receiver<u64>,
    begun: Instant,
    took: Option<Duration>,
}

impl Expected {
    /// Completes when the worker serves the circuit, whichever way it says so.
    pub async fn served(&mut self, store: &dyn Store) {
        let (worker, generation) = (self.worker, self.generation);
        let ask_at_once = self.ask_at_once;
        let elsewhere = async {
            if !ask_at_once {
                tokio::time::sleep(POLL).await;
            }
            loop {
                match store.acknowledged(worker).await {
                    Ok(known) if known >= generation => return,
                    Ok(_) => {}
                    Err(error) => log::debug!("acknowledgements cannot be read: {error}"),
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let by_circuit = async {
            if let Some(served) = &mut self.served
                && served.wait_for(|served| *served).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        };
        let by_generation = async {
            if self
                .reached
                .wait_for(|known| *known >= generation)
                .await
                .is_err()
            {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = by_circuit => {}
            () = by_generation => {}
            () = elsewhere => {}
        }
        self.took = Some(self.begun.elapsed());
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        if let Some(waits) = &self.book.waits {
            waits(self.took);
        }
        self.served = None;
        self.book
            .circuits
            .remove_if(&self.circuit, |_, waiting| waiting.receiver_count() == 0);
    }
}
