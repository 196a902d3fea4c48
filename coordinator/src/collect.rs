//! Collecting circuits that nobody uses.
//!
//! People close windows, not circuits; what they leave behind would hold a port of its worker for
//! ever. Every ten seconds the interactive circuits that are carried as HTTP or TCP and were used
//! too long ago are closed, as a person would close them. When a circuit was used is known from
//! the marks that workers leave in Redis or, where there is none, tell the coordinator; this room
//! refuses to guess: without an answer nothing is collected. Of coordinators that share a database one collects; should two do
//! so at the same time, a circuit is closed, and told of, only once. `wiring` runs it.

use std::collections::HashMap;
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
use crate::registry::seconds;
use crate::store::{Actor, Cause, LongOpen, Reason, Store, StoreError};

#[cfg(test)]
mod tests;

/// From the start to the first round (contract/events.md §4).
const FIRST: Duration = Duration::from_secs(5);
/// From one round to the next.
const PERIOD: Duration = Duration::from_secs(10);
/// Circuits whose marks are asked for at once.
const PAGE: usize = 500;
/// A worker that has not told for so long is not relied upon: it tells every five seconds, even that
/// there was nothing.
const TOLD_WITHIN: TimeDelta = TimeDelta::seconds(15);

/// When a circuit was last used, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LastUse {
    /// Not since it was opened.
    Never,
    /// At this moment, in seconds since 1970.
    At(f64),
    /// Nobody can tell: it counts as used.
    Unknown,
}

/// Knows when circuits were last used.
#[async_trait]
pub trait LastUses: Send + Sync + 'static {
    /// When these circuits were last used, in their order.
    ///
    /// # Errors
    /// If that cannot be read now.
    async fn last_uses(&self, circuits: &[LongOpen]) -> Result<Vec<LastUse>, Unreadable>;
}

/// Why it is not known when circuits were used.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Redis does not answer.
    #[error(transparent)]
    Redis(#[from] PublishError),
    /// The store does not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[async_trait]
impl LastUses for Redis {
    async fn last_uses(&self, circuits: &[LongOpen]) -> Result<Vec<LastUse>, Unreadable> {
        let ids: Vec<CircuitId> = circuits.iter().map(|circuit| circuit.id).collect();
        let marks = Redis::last_uses(self, &ids).await?;
        Ok(marks.iter().map(|mark| read(mark.as_deref())).collect())
    }
}

/// A mark as workers write it; one that says nothing speaks for the circuit.
fn read(mark: Option<&str>) -> LastUse {
    let Some(text) = mark else {
        return LastUse::Never;
    };
    let seconds: Option<f64> = text.trim().parse().ok();
    let seconds = seconds.filter(|seconds| seconds.is_finite());
    seconds.map_or(LastUse::Unknown, LastUse::At)
}

/// What workers without Redis have told the coordinator. Of the circuits of a worker whose nodes
/// have not all told lately nobody can say whether they are used.
pub struct ToldUses {
    store: Arc<dyn Store>,
}

impl ToldUses {
    /// What this store has been told.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl LastUses for ToldUses {
    async fn last_uses(&self, circuits: &[LongOpen]) -> Result<Vec<LastUse>, Unreadable> {
        // First who has told: what is told between the two reads is a use that is seen.
        let telling = self.store.told_all_uses(Utc::now() - TOLD_WITHIN).await?;
        let ids: Vec<CircuitId> = circuits.iter().map(|circuit| circuit.id).collect();
        let uses = self.store.uses(&ids).await?;
        let uses: HashMap<CircuitId, f64> = uses
            .into_iter()
            .map(|used| (used.circuit, seconds(used.last)))
            .collect();
        let last = |circuit: &LongOpen| match uses.get(&circuit.id) {
            _ if !telling.contains(&circuit.worker) => LastUse::Unknown,
            Some(at) => LastUse::At(*at),
            None => LastUse::Never,
        };
        Ok(circuits.iter().map(last).collect())
    }
}

/// Why a round was not finished.
#[derive(Debug, thiserror::Error)]
enum Unfinished {
    #[error("when they were used cannot be read: {0}")]
    Marks(#[from] Unreadable),
    #[error("{asked} circuits were asked for, {told} marks came back")]
    Uneven { asked: usize, told: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Closes idle circuits.
pub struct Collector {
    store: Arc<dyn Store>,
    closer: Closer,
    uses: Arc<dyn LastUses>,
    idle_after: Duration,
}

impl Collector {
    /// A collector of circuits that were not used for longer than `idle_after`, as `uses` knows.
    pub fn new(
        store: Arc<dyn Store>,
        closer: Closer,
        uses: Arc<dyn LastUses>,
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
        let mut ticks = tokio::time::interval_at(Instant::now() + FIRST, PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            ticks.tick().await;
            if !lease.is_held() {
                continue;
            }
            match self.round(self.uses.as_ref(), Utc::now()).await {
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
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            let marks = uses.last_uses(&page).await?;
            if marks.len() != page.len() {
                let (asked, told) = (page.len(), marks.len());
                return Err(Unfinished::Uneven { asked, told });
            }
            for (circuit, mark) in page.iter().zip(marks) {
                let idle = overdue(now, circuit.opened, mark, self.idle_after);
                let Some(idle) = idle else { continue };
                match self.collect(circuit, idle).await {
                    Err(corrupt @ StoreError::Corrupt { .. }) => problem = Some(corrupt),
                    outcome => outcome?,
                }
            }
            if page.len() < PAGE {
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

/// How long a circuit has not been used, if that is longer than `idle_after`. Its opening is a use.
fn overdue(
    now: DateTime<Utc>,
    opened: DateTime<Utc>,
    mark: LastUse,
    idle_after: Duration,
) -> Option<Duration> {
    let used = match mark {
        LastUse::Never => seconds(opened),
        LastUse::At(marked) => marked.max(seconds(opened)),
        LastUse::Unknown => return None,
    };
    // A use in the future, by a clock that is ahead, is no idleness.
    let idle = Duration::try_from_secs_f64(seconds(now) - used).ok()?;
    (idle > idle_after).then_some(idle)
}
