//! Tells the coordinator what is held of tunnels here, and hears from it what is held elsewhere.
//! Only a coordinator that numbers its changes is spoken to: a Python coordinator has no such calls.
//! While it is away things stay as they are.

use std::sync::Arc;
use std::time::Duration;

use patchbay_common::id::WorkerId;
use patchbay_common::lifecycle::Drain;
use patchbay_common::tunnel::Claim;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::{Backoff, Outage};
use super::client::{CallError, Coordinator};
use super::status::Status;
use crate::tunnel::Registry;

/// Between claims while nothing changes; a third of the time that a claim stands.
const PERIOD: Duration = Duration::from_secs(10);
/// Between claims while much changes.
const LEAST: Duration = Duration::from_millis(50);
/// Longest wait for news, in seconds.
const WAIT: u64 = 20;
/// Between answers while there is much news.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a coordinator is let be that has no such calls.
const UNOFFERED: Duration = Duration::from_secs(60);

/// Keeps several gateways' knowledge of tunnels together.
#[derive(Debug)]
pub struct TunnelTeller {
    /// Who is told, and tells.
    pub coordinator: Coordinator,
    /// The tunnels.
    pub registry: Arc<Registry>,
    /// Our name among the worker's nodes.
    pub node: String,
    /// Whether there is a coordinator to be told.
    pub status: watch::Receiver<Status>,
    /// When to let everything go.
    pub drain: Drain,
}

impl TunnelTeller {
    /// Tells and hears until the task is dropped.
    pub async fn run(mut self) {
        let known = |status: &Status| status.worker.is_some() && status.generation.is_some();
        if self.status.wait_for(known).await.is_err() {
            // The link is gone, and with it whoever would be told.
            return;
        }
        tokio::join!(self.tell(), self.hear());
    }

    fn worker(&self) -> Option<WorkerId> {
        let status = self.status.borrow();
        status.worker.filter(|_| status.generation.is_some())
    }

    async fn tell(&self) {
        let mut outage = Outage::new("the claim of tunnels");
        let mut changes = self.registry.claims_changed();
        loop {
            let begun = Instant::now();
            changes.mark_unchanged();
            let next = match self.claim(self.registry.claim()).await {
                Ok(()) => {
                    outage.over();
                    begun + PERIOD
                }
                Err(error) => {
                    outage.failed(&error);
                    begun + pause_after(&error)
                }
            };
            tokio::select! {
                () = sleep_until(next) => {}
                Ok(()) = changes.changed() => sleep_until(begun + LEAST).await,
                () = self.drain.stopping() => break,
            }
        }
        // Others need not find out by themselves.
        if let Err(error) = self.claim(Claim::default()).await {
            log::debug!("tunnels could not be let go: {error}");
        }
    }

    async fn claim(&self, claim: Claim) -> Result<(), CallError> {
        let Some(worker) = self.worker() else {
            return Ok(());
        };
        let settled = self.coordinator.claim_tunnels(worker, &claim).await?;
        self.registry.settle(&settled);
        Ok(())
    }

    async fn hear(&self) {
        let mut outage = Outage::new("hearing of other gateways' tunnels");
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        // Nothing is known at first, whatever the generation.
        let (mut after, mut wait) = (0, 0);
        loop {
            match self.coordinator.holdings(after, wait).await {
                Ok(holdings) => {
                    outage.over();
                    backoff.reset();
                    (after, wait) = (holdings.generation, WAIT);
                    if let Some(worker) = self.worker() {
                        self.registry.learn(holdings, (worker, &self.node));
                    }
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    outage.failed(&error);
                    sleep(backoff.wait().max(pause_after(&error))).await;
                }
            }
        }
    }
}

fn pause_after(error: &CallError) -> Duration {
    match error.is_not_found() {
        true => UNOFFERED,
        false => Duration::from_millis(500),
    }
}
