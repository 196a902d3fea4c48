//! Streams that end when nothing has moved for too long. They do only where somebody asks for it.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Meter;
use crate::context::{SpliceEnd, Spliced};

/// Looks at the meter within the time that ends a stream; it ends at most one look late.
const LOOKS: u32 = 8;

/// Runs `carrying`, and stops it by `stop` when `meter` has not moved for `idle`.
pub async fn end_when_idle(
    carrying: impl Future<Output = Spliced>,
    meter: &Meter,
    idle: Option<Duration>,
    stop: &CancellationToken,
) -> Spliced {
    let mut carrying = pin!(carrying);
    let Some(idle) = idle else {
        return carrying.await;
    };
    let (mut before, mut moved) = (meter.total(), Instant::now());
    loop {
        if let Ok(spliced) = timeout(idle / LOOKS, &mut carrying).await {
            return spliced;
        }
        let now = meter.total();
        if now != before {
            (before, moved) = (now, Instant::now());
        } else if moved.elapsed() >= idle {
            stop.cancel();
            let mut spliced = carrying.await;
            if spliced.end == SpliceEnd::CircuitClosed {
                spliced.end = SpliceEnd::Idle;
            }
            return spliced;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_nothing_has_moved_and_not_before() {
        let (meter, stop) = (Meter::default(), CancellationToken::new());
        let begun = Instant::now();
        let carrying = async {
            stop.cancelled().await;
            Spliced {
                end: SpliceEnd::CircuitClosed,
                ..Spliced::default()
            }
        };
        let speak = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(7)).await;
                meter.sent.fetch_add(1, Ordering::Relaxed);
            }
        };
        let idle = Some(Duration::from_secs(8));
        let (spliced, ()) = tokio::join!(end_when_idle(carrying, &meter, idle, &stop), speak);
        assert_eq!(spliced.end, SpliceEnd::Idle);
        assert!((29..=30).contains(&begun.elapsed().as_secs()));
    }
}
