//! Says that the worker lives, hears in return where its circuits stand, and registers again when
//! the coordinator has forgotten it.

use std::sync::Arc;
use std::time::Duration;

use patchbay_common::worker::Registration;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::backoff::Outage;
use super::client::Coordinator;
use super::inbox::{Inbox, Input};
use super::status::{Board, Reach};
use super::{join, services};

/// What the heartbeat works with.
pub(super) struct Heart {
    pub(super) coordinator: Coordinator,
    pub(super) registration: Registration,
    pub(super) inbox: Inbox,
    /// Where the services are kept, if there is a gateway.
    pub(super) services: Option<services::Inbox>,
    pub(super) board: Board,
    pub(super) period: Duration,
    /// Woken when somebody else was told that the worker is unknown.
    pub(super) stranger: Arc<Notify>,
}

impl Heart {
    /// Beats for ever, at once for the first time.
    pub(super) async fn run(self) {
        let mut outage = Outage::new("the heartbeat");
        let mut ticks = tokio::time::interval(self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stranger.notified() => {}
            }
            self.beat(&mut outage).await;
        }
    }

    async fn beat(&self, outage: &mut Outage) {
        let Some(worker) = self.board.worker() else {
            return;
        };
        match self.coordinator.heartbeat(worker).await {
            Ok(known) => {
                outage.over();
                self.board
                    .write(|status| status.coordinator_reach = Reach::ok());
                self.inbox.tell(Input::Told(known.generation)).await;
                if let (Some(services), Some(named)) = (&self.services, known.services_generation) {
                    services.leave(services::Input::Told(named));
                }
            }
            Err(error) if error.is_not_found() => {
                log::warn!("the coordinator does not know this worker: registering again");
                join::register(&self.coordinator, &self.registration, &self.board).await;
                self.inbox.tell(Input::Resync).await;
            }
            Err(error) => {
                outage.failed(&error);
                self.board
                    .write(|status| status.coordinator_reach = Reach::failed(&error));
            }
        }
    }
}
