//! Circuits that come and go, whatever becomes of the coordinators meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use tokio::task::JoinSet;

use crate::eventually::eventually;
use crate::opener::{Opener, Order};

/// Longest that an opening may take before the client turns elsewhere.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest that openings may fail to come.
const STALL: Duration = Duration::from_secs(30);

/// What the clients have counted.
#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    opened: AtomicUsize,
    failed: AtomicUsize,
}

/// Clients that open and close.
#[derive(Debug)]
pub struct Churn {
    counts: Arc<Counts>,
    clients: JoinSet<()>,
}

impl Churn {
    /// Begins with a client for each order. Each takes turns on the openers and leaves every third
    /// circuit open. Each circuit is one of its own and needs no permit.
    pub fn start(openers: &[Opener], orders: impl IntoIterator<Item = Order>) -> Self {
        let counts = Arc::new(Counts::default());
        let mut clients = JoinSet::new();
        for order in orders {
            let order = order.with("open_to_public", true).with("no_reuse", true);
            clients.spawn(Arc::clone(&counts).client(openers.to_vec(), order));
        }
        Self { counts, clients }
    }

    /// Waits until so many more circuits were opened.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn openings(&self, count: usize) -> anyhow::Result<()> {
        let goal = self.opened() + count;
        eventually("circuits come and go", STALL, async || {
            ensure!(self.opened() >= goal, "{} of {goal}", self.opened());
            Ok(())
        })
        .await
    }

    /// Circuits opened up to now.
    pub fn opened(&self) -> usize {
        self.counts.opened.load(Ordering::Relaxed)
    }

    /// Openings and closings that failed up to now.
    pub fn failed(&self) -> usize {
        self.counts.failed.load(Ordering::Relaxed)
    }

    /// Stops, and waits for what is under way.
    pub async fn finish(mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
    }
}

impl Counts {
    async fn client(self: Arc<Self>, openers: Vec<Opener>, order: Order) {
        let mut turn = 0_usize;
        while !self.stop.load(Ordering::Relaxed) {
            turn += 1;
            let opener = &openers[turn % openers.len()];
            let mut order = order.clone();
            order.app = format!("{}-{turn}", order.app);
            let Ok(Ok(opened)) = tokio::time::timeout(PATIENCE, opener.open(&order)).await else {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                continue;
            };
            self.opened.fetch_add(1, Ordering::Relaxed);
            let other = &openers[(turn + 1) % openers.len()];
            // Whether a closing that fails was committed, only the store knows.
            if !turn.is_multiple_of(3) && other.close(opened.circuit).await.is_err() {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
