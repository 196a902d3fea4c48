//! The end of the process: by a signal, or because a successor has taken over.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use patchbay_common::lifecycle::{Notify, Outcome};
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};

use super::Rooms;

/// How long the last marks of use may take to be written.
const LAST_WRITES: Duration = Duration::from_secs(2);
/// Between looks at the connections a successor did not take over.
const LOOK: Duration = Duration::from_millis(200);

/// Ends the process in order: the coordinator is told first, then what is in flight ends, then
/// the last marks are written. Pingora's own waiting is skipped: it would sleep the whole grace.
pub(super) struct Signal(pub(super) Arc<Rooms>);

#[async_trait]
impl ShutdownSignalWatch for Signal {
    async fn recv(&self) -> ShutdownSignal {
        let rooms = &self.0;
        let outcome = tokio::select! {
            outcome = self.signalled() => outcome,
            outcome = self.succeeded() => outcome,
        };
        rooms.succession.close();
        let link = rooms.link.borrow().clone();
        if !matches!(outcome, Some(Outcome::Forced(_)))
            && let Some(link) = link
            && tokio::time::timeout(LAST_WRITES, link.stop())
                .await
                .is_err()
        {
            log::warn!("the last marks of use could not be written in time");
        }
        ShutdownSignal::FastShutdown
    }
}

impl Signal {
    /// A signal ends the process. `None` if signals cannot be awaited.
    async fn signalled(&self) -> Option<Outcome> {
        let rooms = &self.0;
        let goodbye = async {
            rooms.drain.stopping().await;
            // Nobody may come to a door that is not opened any more.
            rooms.succession.listeners.release();
            if rooms.succession.is_given() {
                return;
            }
            Notify.stopping();
            let link = rooms.link.borrow().clone();
            if let Some(link) = link {
                link.leave().await;
            }
        };
        let grace = rooms.config.server.grace_period.0;
        let drained = async {
            let outcome = rooms.drain.run_until_signalled(grace).await;
            match outcome {
                Ok(Outcome::Finished) => log::info!("all requests are done"),
                Ok(Outcome::GraceOver(left)) => log::warn!("the grace is over: {left} cut off"),
                Ok(Outcome::Forced(left)) => log::warn!("stopped at once: {left} cut off"),
                Err(ref error) => log::error!("signals cannot be awaited: {error}"),
            }
            outcome.ok()
        };
        tokio::pin!(goodbye);
        tokio::pin!(drained);
        tokio::select! {
            outcome = &mut drained => {
                if outcome == Some(Outcome::Finished) {
                    goodbye.await;
                }
                outcome
            }
            () = &mut goodbye => drained.await,
        }
    }

    /// A successor accepts the connections; those that are open are served until they end.
    async fn succeeded(&self) -> Option<Outcome> {
        let rooms = &self.0;
        rooms.succession.given().await;
        let longest = rooms.config.server.handover_max_age.0;
        log::info!(
            "a successor accepts: {} connections are served here for at most {} s",
            rooms.gate.open(),
            longest.as_secs_f64()
        );
        if let Some(link) = rooms.link.borrow().as_ref() {
            link.retire();
        }
        rooms.drain.begin_gently();
        let empty = async {
            while rooms.gate.open() > 0 || rooms.drain.in_flight() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        let left = || rooms.gate.open();
        let outcome = match tokio::time::timeout(longest, empty).await {
            Ok(()) => {
                log::info!("all connections have ended");
                Outcome::Finished
            }
            Err(_) => {
                log::warn!("the longest age is reached: {} cut off", left());
                Outcome::GraceOver(left())
            }
        };
        Some(outcome)
    }
}
