//! Marks of use for as long as a stream is open (contract/data-plane.md §12).

use std::time::Duration;

use patchbay_common::id::SessionId;

use crate::sync::Activity;
use crate::table::LiveCircuit;

/// Between marks, as the incumbent leaves them.
const PERIOD: Duration = Duration::from_millis(1_500);

/// Runs `carrying`, counting it as one use and marking the circuit as used until it ends; or, where
/// `data` counts what it carries, whenever that has grown.
pub async fn mark_while<T>(
    activity: &Activity,
    circuit: &LiveCircuit,
    session: SessionId,
    data: Option<&(dyn Fn() -> u64 + Sync)>,
    carrying: impl Future<Output = T>,
) -> T {
    activity.request(circuit, session);
    tokio::pin!(carrying);
    let mut before = 0;
    loop {
        match tokio::time::timeout(PERIOD, &mut carrying).await {
            Ok(done) => return done,
            Err(_) => {
                let now = data.map(|data| data());
                if now.is_none_or(|now| now != before) {
                    activity.stream_alive(circuit, session);
                }
                before = now.unwrap_or_default();
            }
        }
    }
}
