//! What has to be done now and then to what is stored: rows of the audit and tokens are forgotten when
//! they are old, and counters that the incumbent lets drift are set right. One coordinator does it, by the
//! lease; `wiring` runs it. This room refuses to decide anything about circuits.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::time::MissedTickBehavior;

use crate::lease::Lease;
use crate::store::{Store, StoreError};

/// From one round to the next.
const PERIOD: Duration = Duration::from_secs(30);
/// How soon the first round is tried again until the lease is held.
const SOON: Duration = Duration::from_secs(1);
/// Rows forgotten in one transaction.
const BATCH: usize = 5_000;

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// Rows of the audit.
    pub(crate) audit: Duration,
    /// Tokens of sessions that have no circuit.
    pub(crate) tokens: Duration,
}

/// Does round after round, until the process ends.
pub(crate) async fn keep_up(store: &dyn Store, lease: &Lease, keep: Keep) {
    while !lease.is_held() {
        tokio::time::sleep(SOON).await;
    }
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        if !lease.is_held() {
            continue;
        }
        match round(store, keep).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                log::warn!("the store cannot be kept in order for now: {error}");
            }
            Err(_) => {}
        }
    }
}

async fn round(store: &dyn Store, keep: Keep) -> Result<(), StoreError> {
    let mended = store.recount_slots().await?;
    if !mended.is_empty() {
        log::info!(workers = mended.len(); "counters of occupied slots were set right");
    }
    let before = |keep| {
        let keep = TimeDelta::from_std(keep).ok()?;
        Utc::now().checked_sub_signed(keep)
    };
    if let Some(before) = before(keep.audit) {
        while store.prune_audit(before, BATCH).await? == BATCH as u64 {}
        while store.prune_service_changes(before, BATCH).await? == BATCH as u64 {}
    }
    if let Some(before) = before(keep.tokens) {
        while store.prune_tokens(before, BATCH).await? == BATCH as u64 {}
    }
    Ok(())
}
