//! Who has not been heard of for too long is lost.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, MissedTickBehavior};

use crate::lease::Lease;
use crate::store::{Store, StoreError};

/// Longest time between two looks.
const LONGEST: Duration = Duration::from_secs(1);

/// Marks workers as lost that were silent for `timeout`, while the lease is held, and hands on
/// since when whoever is lost was silent; runs until the process ends.
///
/// The first verdict comes one `timeout` after the start: while no coordinator ran, no worker
/// could be heard. The same holds after the store failed and after this process stood still.
pub async fn watch_over<F: Future<Output = Result<(), StoreError>>>(
    store: &dyn Store,
    lease: &Lease,
    timeout: Duration,
    mut then: impl FnMut(DateTime<Utc>) -> F,
) {
    let period = (timeout / 6).clamp(Duration::from_millis(50), LONGEST);
    let silence = TimeDelta::from_std(timeout).unwrap_or(TimeDelta::MAX);
    let mut not_before = Instant::now() + timeout;
    let mut last = Instant::now();
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let stood_still = last.elapsed() > period * 2 + LONGEST;
        last = Instant::now();
        if stood_still {
            not_before = last + timeout;
        }
        if last < not_before || !lease.is_held() {
            continue;
        }
        let Some(since) = Utc::now().checked_sub_signed(silence) else {
            continue;
        };
        let outcome = async {
            judge(store, since, timeout).await?;
            then(since).await
        };
        match outcome.await {
            Ok(()) => failing = false,
            Err(error) => {
                if !failing {
                    log::warn!("workers cannot be watched for now: {error}");
                }
                failing = true;
                not_before = Instant::now() + timeout;
            }
        }
        // What the verdict took is no standing still.
        last = Instant::now();
    }
}

async fn judge(
    store: &dyn Store,
    since: DateTime<Utc>,
    timeout: Duration,
) -> Result<(), StoreError> {
    for worker in store.mark_lost(since).await? {
        log::warn!(
            worker = worker.authority.as_str(), circuits = worker.occupied_slots;
            "worker lost: no heartbeat for {} s", timeout.as_secs_f64()
        );
    }
    let forgotten = store.forget_nodes(since).await?;
    if forgotten > 0 {
        log::warn!(nodes = forgotten; "nodes were silent for too long and no longer count");
    }
    Ok(())
}
