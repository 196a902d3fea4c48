//! Marks of use for as long as a stream is open (contract/data-plane.md §12).

use std::time::Duration;

use patchbay_common::id::SessionId;

use crate::sync::Activity;
use crate::table::LiveCircuit;

/// Between marks, as the incumbent leaves them.
const PERIOD: Duration = Duration::from_millis(1_500);

/// Runs `carrying`, counting it as one use and marking the circuit as used until it ends.
pub async fn mark_while<T>(
    activity: &Activity,
    circuit: &LiveCircuit,
    session: SessionId,
    carrying: impl Future<Output = T>,
) -> T {
    activity.request(circuit, session);
    tokio::pin!(carrying);
    loop {
        match tokio::time::timeout(PERIOD, &mut carrying).await {
            Ok(done) => return done,
            Err(_) => activity.stream_alive(circuit, session),
        }
    }
}
