//! Keeps alive what must never end: a part that returns or panics is reported and started again,
//! and does not take the parts beside it along.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;

/// Pause before a part that ended is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs `part` for ever. Each start makes its state anew, so nothing that a panic left half done
/// is used again but what the store keeps.
pub(crate) async fn supervise<F: Future<Output = ()>>(name: &str, mut part: impl FnMut() -> F) {
    loop {
        match AssertUnwindSafe(part()).catch_unwind().await {
            Ok(()) => log::error!("the {name} ended; it is started again"),
            // What was said is on stderr already, from the panic hook.
            Err(_) => log::error!("the {name} panicked; it is started again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_is_started_again_whichever_way_it_ends() {
        let starts = Cell::new(0);
        let part = || async {
            starts.set(starts.get() + 1);
            match starts.get() {
                1 => panic!("on purpose"),
                2 => {}
                _ => std::future::pending().await,
            }
        };
        let ten_pauses = tokio::time::timeout(PAUSE * 10, supervise("part", part));
        assert!(ten_pauses.await.is_err());
        assert_eq!(starts.get(), 3);
    }
}
