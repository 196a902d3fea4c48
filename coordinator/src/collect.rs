//! Collecting circuits that nobody uses.
//!
//! People close windows, not circuits; what they leave behind would hold a port of its worker for
//! ever. Every ten seconds the interactive circuits that are carried as HTTP or TCP and were used
//! too long ago are closed, as a person would close them. When a circuit was used is known from
//! the marks that workers leave in Redis; this room refuses to guess: without Redis, or without
//! its answer, nothing is collected. Of coordinators that share a database one collects; should two do
//! so at the same time, a circuit is closed, and told of, only once. `wiring` runs it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use patchbay_common::id::CircuitId;
use tokio::time::{Instant, MissedTickBehavior};

use crate::circuits::{CloseError, Closer};
use crate::lease::Lease;
use crate::publish::PublishError;
use crate::publish::redis::Redis;
use crate::store::{Actor, Cause, LongOpen, Reason, Store, StoreError};

#[cfg(test)]
mod tests;

/// From the start to the first round (contract/events.md §4).
const FIRST: Duration = Duration::from_secs(5);
/// From one round to the next.
const PERIOD: Duration = Duration::from_secs(10);
/// Circuits whose marks are asked for at once.
const PAGE: usize = 500;

/// Knows when circuits were last used.
#[async_trait]
pub trait LastUses: Send + Sync + 'static {
    /// The marks of these circuits in their order: seconds since 1970 as text; `None` for a
    /// circuit without one.
    ///
    /// # Errors
    /// If they cannot be read now.
    async fn last_uses(&self, circuits: &[CircuitId]) -> Result<Vec<Option<String>>, PublishError>;
}

#[async_trait]
impl LastUses for Redis {
    async fn last_uses(&self, circuits: &[CircuitId]) -> Result<Vec<Option<String>>, PublishError> {
        Redis::last_uses(self, circuits).await
    }
}

/// Why a round was not finished.
#[derive(Debug, thiserror::Error)]
enum Unfinished {
    #[error("when they were used cannot be read: {0}")]
    Marks(#[from] PublishError),
    #[error("{asked} circuits were asked for, {told} marks came back")]
    Uneven { asked: usize, told: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Closes idle circuits.
pub struct Collector {
    store: Arc<dyn Store>,
    closer: Closer,
    uses: Option<Arc<dyn LastUses>>,
    idle_after: Duration,
}

impl Collector {
    /// A collector of circuits that were not used for longer than `idle_after`; without `uses` it
    /// collects nothing.
    pub fn new(
        store: Arc<dyn Store>,
        closer: Closer,
        uses: Option<Arc<dyn LastUses>>,
        idle_after: Duration,
    ) -> Self {
        Self {
            store,
            closer,
            uses,
            idle_after,
        }
    }

    /// Does round after round while the lease is held, until the process ends.
    pub(crate) async fn run(&self, lease: &Lease) {
        let Some(uses) = &self.uses else {
            log::info!("idle circuits stay open: without redis nobody knows when they were used");
            return std::future::pending().await;
        };
        let mut ticks = tokio::time::interval_at(Instant::now() + FIRST, PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            ticks.tick().await;
            if !lease.is_held() {
                continue;
            }
            match self.round(uses.as_ref(), Utc::now()).await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    log::warn!("idle circuits cannot be collected for now: {error}");
                }
                Err(_) => {}
            }
        }
    }

    /// Looks at every circuit that is old enough to be idle. One that cannot be read stays in
    /// nobody's way but is reported in the end.
    async fn round(&self, uses: &dyn LastUses, now: DateTime<Utc>) -> Result<(), Unfinished> {
        let age = TimeDelta::from_std(self.idle_after).ok();
        let Some(opened_before) = age.and_then(|age| now.checked_sub_signed(age)) else {
            return Ok(());
        };
        let (mut after, mut problem) = (None, None);
        loop {
            let page = self.store.long_open(opened_before, after, PAGE).await?;
            let ids: Vec<CircuitId> = page.iter().map(|circuit| circuit.id).collect();
            let Some(last) = ids.last() else { break };
            after = Some(*last);
            let marks = uses.last_uses(&ids).await?;
            if marks.len() != ids.len() {
                let (asked, told) = (ids.len(), marks.len());
                return Err(Unfinished::Uneven { asked, told });
            }
            for (circuit, mark) in page.iter().zip(marks) {
                let idle = overdue(now, circuit.opened, mark.as_deref(), self.idle_after);
                let Some(idle) = idle else { continue };
                match self.collect(circuit, idle).await {
                    Err(corrupt @ StoreError::Corrupt { .. }) => problem = Some(corrupt),
                    outcome => outcome?,
                }
            }
            if ids.len() < PAGE {
                break;
            }
        }
        problem.map_or(Ok(()), |problem| Err(problem.into()))
    }

    async fn collect(&self, circuit: &LongOpen, idle: Duration) -> Result<(), StoreError> {
        let cause = Cause::now(Actor::Coordinator, Reason::Idle);
        let cause = cause.because(format!("not used for {} s", idle.as_secs()));
        match self.closer.close_unsaid(circuit.id, &cause).await {
            Ok(closed) => log::info!(
                circuit = circuit.id.to_string().as_str(), worker = closed.authority.as_str(),
                app = circuit.app.as_deref().unwrap_or_default(), idle_seconds = idle.as_secs();
                "idle circuit closed"
            ),
            // Its owner or another coordinator was faster.
            Err(CloseError::NoSuchCircuit) => {}
            Err(CloseError::Store(error)) => return Err(error),
        }
        Ok(())
    }
}

/// How long a circuit has not been used, if that is longer than `idle_after`. Its opening is a
/// use; a mark that says nothing speaks for the circuit.
fn overdue(
    now: DateTime<Utc>,
    opened: DateTime<Utc>,
    mark: Option<&str>,
    idle_after: Duration,
) -> Option<Duration> {
    let seconds = |at: DateTime<Utc>| at.timestamp_micros() as f64 / 1e6;
    let used = match mark {
        None => seconds(opened),
        Some(text) => {
            let marked: f64 = text.trim().parse().ok()?;
            marked.is_finite().then_some(marked)?.max(seconds(opened))
        }
    };
    // A use in the future, by a clock that is ahead, is no idleness.
    let idle = Duration::try_from_secs_f64(seconds(now) - used).ok()?;
    (idle > idle_after).then_some(idle)
}
