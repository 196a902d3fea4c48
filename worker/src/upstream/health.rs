//! Health of one upstream: faults counted by traffic, recovery found by probing.
//!
//! Only faults of the upstream's side count; a client that goes away says nothing about the
//! kernel (contract/pitfalls.md A3). A route is never given up: it is probed until it answers or
//! its circuit is gone (A15).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::{Upstream, dial};
use crate::tunnel::Registry;

/// Consecutive faults that take an upstream out of service (contract/data-plane.md §8).
const FAULTS_TO_EJECT: u32 = 3;
/// Between probes of the upstreams that are out of service.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// Patience of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Probes under way at once.
const PROBES_AT_ONCE: usize = 64;

/// What is known of an upstream.
#[derive(Debug, Default)]
pub struct Health {
    faults: AtomicU32,
    down: AtomicBool,
}

impl Health {
    /// Whether requests may be sent there.
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// A connection was made: all faults are forgiven.
    pub fn succeeded(&self) {
        if self.faults.load(Ordering::Relaxed) != 0 {
            self.faults.store(0, Ordering::Relaxed);
        }
        if self.down.load(Ordering::Relaxed) {
            self.down.store(false, Ordering::Relaxed);
        }
    }

    /// The upstream failed. True if this fault took it out of service.
    pub fn failed(&self) -> bool {
        let faults = self.faults.fetch_add(1, Ordering::Relaxed) + 1;
        faults >= FAULTS_TO_EJECT && !self.down.swap(true, Ordering::Relaxed)
    }
}

/// Probes upstreams that are out of service.
#[derive(Debug, Default)]
pub struct Prober {
    down: Mutex<Vec<Weak<Upstream>>>,
}

impl Prober {
    /// Notes a fault of an upstream; if it took it out of service, probing begins.
    pub fn report_fault(&self, upstream: &Arc<Upstream>) {
        upstream.forget_address();
        if upstream.health.failed() {
            log::warn!(
                "upstream {} is out of service: it does not answer",
                upstream.label
            );
            self.lock().push(Arc::downgrade(upstream));
        }
    }

    /// Probes until the task is dropped.
    pub async fn run(&self, tunnels: &Registry) {
        let mut ticks = tokio::time::interval(PROBE_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.probe_all(tunnels).await;
        }
    }

    async fn probe_all(&self, tunnels: &Registry) {
        let waiting: Vec<Weak<Upstream>> = std::mem::take(&mut *self.lock());
        for batch in waiting.chunks(PROBES_AT_ONCE) {
            let probes = batch
                .iter()
                .filter_map(Weak::upgrade)
                .map(|one| probe(one, tunnels));
            let still_down = futures_util::future::join_all(probes).await;
            self.lock().extend(still_down.into_iter().flatten());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Upstream>>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries a connection; answers the upstream again if it is still out of service.
async fn probe(upstream: Arc<Upstream>, tunnels: &Registry) -> Option<Weak<Upstream>> {
    if !upstream.health.is_up() {
        match dial(&upstream, tunnels, PROBE_TIMEOUT).await {
            Ok(_) => {
                log::info!("upstream {} answers again", upstream.label);
                upstream.health.succeeded();
            }
            _ => {
                upstream.forget_address();
                return Some(Arc::downgrade(&upstream));
            }
        }
    }
    None
}
