//! Who has not been heard of for too long is lost.

use std::time::Duration;

use chrono::{TimeDelta, Utc};

use crate::store::Store;

/// Marks workers as lost that were silent for `timeout`; runs until the process ends.
///
/// The first verdict comes one `timeout` after the start: while no coordinator ran, no worker
/// could be heard.
pub async fn watch_over(store: &dyn Store, timeout: Duration) {
    let period = (timeout / 6).clamp(Duration::from_millis(50), Duration::from_secs(5));
    let silence = TimeDelta::from_std(timeout).unwrap_or(TimeDelta::MAX);
    tokio::time::sleep(timeout).await;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let Some(since) = Utc::now().checked_sub_signed(silence) else {
            continue;
        };
        match store.mark_lost(since).await {
            Ok(lost) => {
                failing = false;
                for worker in lost {
                    log::warn!(
                        worker = worker.authority.as_str(), circuits = worker.occupied_slots;
                        "worker lost: no heartbeat for {} s", timeout.as_secs_f64()
                    );
                }
            }
            Err(error) if !failing => {
                failing = true;
                log::warn!("workers cannot be watched for now: {error}");
            }
            Err(_) => {}
        }
    }
}
