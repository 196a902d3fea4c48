//! From a committed change to the worker that has to act on it.
//!
//! `stream` serves workers that listen to the coordinator itself, `redis` those that listen to the
//! incumbent's channel; `acknowledgements` gathers what workers answer; `outbox` repeats what did
//! not get through; `services` does all of it for the services of gateways, which have a log of their
//! own; `presence` tells the Manager where this process is. This room refuses to decide what is published and to write circuits;
//! `circuits` publishes, `api` hands its streams out.

mod acknowledgements;
mod outbox;
mod presence;
pub mod redis;
mod services;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use patchbay_common::event::EventError;
use patchbay_common::id::WorkerId;

use crate::store::LoggedEvent;

pub use acknowledgements::{Acknowledgements, Expected, Waits};
pub use outbox::{Outbox, Published};
pub use presence::Presence;
pub use services::{ServiceFeed, ServiceFeeds, ServiceItem};
pub use stream::{Feed, Item, Streams};

/// Something to be told to a worker.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// The change.
    pub event: Arc<LoggedEvent>,
    /// It was told before: the worker's generation has not moved.
    pub again: bool,
}

/// Why an announcement did not go out. What failed is retried by the outbox.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The bus is not connected at the moment.
    #[error("{0} is not connected")]
    Down(&'static str),
    /// The bus did not take it in time, or refused.
    #[error("{bus} failed: {cause}")]
    Failed {
        /// Which bus.
        bus: &'static str,
        /// What it said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The event cannot be written.
    #[error(transparent)]
    Unwritable(#[from] EventError),
}

/// A way to reach workers.
#[async_trait]
pub trait Publisher: Send + Sync + 'static {
    /// Its name, for logs and metrics.
    fn name(&self) -> &'static str;

    /// Sends, without waiting for anyone to listen. Bounded in time.
    ///
    /// # Errors
    /// Why it did not go out.
    async fn publish(&self, announcement: &Announcement) -> Result<(), PublishError>;
}

/// All ways at once, and the note of what went out.
#[derive(Clone)]
pub struct Bus {
    ways: Arc<[Arc<dyn Publisher>]>,
    published: Published,
    counts: Arc<dyn Fn(&'static str, bool) + Send + Sync>,
    delays: Option<Delays>,
}

/// Hears of every publication: the way's name, and how long after the commit it came.
pub type Delays = Arc<dyn Fn(&'static str, Duration) + Send + Sync>;

impl Bus {
    /// A bus over these ways. `counts` hears of every attempt: the way's name, and whether it
    /// succeeded.
    pub fn new(
        ways: Vec<Arc<dyn Publisher>>,
        published: Published,
        counts: impl Fn(&'static str, bool) + Send + Sync + 'static,
    ) -> Self {
        Self {
            ways: ways.into(),
            published,
            counts: Arc::new(counts),
            delays: None,
        }
    }

    /// The same bus, which tells how late events are published.
    #[must_use]
    pub fn timed(mut self, delays: Delays) -> Self {
        self.delays = Some(delays);
        self
    }

    /// Tells every way. What all of them took is noted as published; the rest is left to the
    /// outbox, which is why a failure is nobody else's concern.
    pub async fn announce(&self, announcement: Announcement) {
        let sent = self.send(&announcement).await;
        if sent && !announcement.again {
            let event = &announcement.event;
            self.published.note(event.worker, event.generation);
        }
    }

    /// Sends by every way; true if all took it.
    async fn send(&self, announcement: &Announcement) -> bool {
        let mut all = true;
        for way in self.ways.iter() {
            let outcome = way.publish(announcement).await;
            (self.counts)(way.name(), outcome.is_ok());
            if let Some(delays) = &self.delays
                && outcome.is_ok()
                && !announcement.again
            {
                let age = Utc::now() - announcement.event.created_at;
                delays(way.name(), age.to_std().unwrap_or_default());
            }
            if let Err(error) = outcome {
                all = false;
                log::debug!(
                    worker = announcement.event.event.authority.as_str(),
                    generation = announcement.event.generation;
                    "not published yet: {error}"
                );
            }
        }
        all
    }
}

/// A worker at one of its generations.
pub(crate) type Mark = (WorkerId, u64);
