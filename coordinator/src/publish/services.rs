//! Changes of services on their way to the gateways.
//!
//! The store's log is the outbox: whatever is told comes out of it, in order and without gaps, and a
//! poke only says that it is worth looking. Changes made by other coordinators over the same
//! database are found by looking again every [`POLL`]. Each way (the open feeds, Redis) has a place
//! of its own in the log, so that one that fails holds up nobody and goes on where it was.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use patchbay_common::gateway::CHANNEL;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::Instant;

use super::redis::Redis;
use crate::store::{LoggedService, Store, StoreError};

/// How often the log is looked at for changes made elsewhere.
const POLL: Duration = Duration::from_millis(200);
/// A quiet feed says this often that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Changes taken from the log at once.
const BATCH: usize = 256;
/// Changes a slow feed may be behind before it reads the log itself.
const BACKLOG: usize = 1_024;
/// Feeds open at once.
const MAX_FEEDS: usize = 4_096;

/// What a feed hands out.
#[derive(Clone, Debug)]
pub enum ServiceItem {
    /// The first item: the generation of the services.
    Hello(u64),
    /// A change.
    Change(Arc<LoggedService>),
    /// The log does not reach back to the reader's place; it goes on from this generation.
    Resync(u64),
    /// Nothing happened for a while.
    KeepAlive,
}

/// The ways to the gateways.
pub struct ServiceFeeds {
    store: Arc<dyn Store>,
    redis: Option<Arc<Redis>>,
    /// Nothing: the log has to be read.
    changes: broadcast::Sender<Option<Arc<LoggedService>>>,
    poke: Notify,
    room: Arc<Semaphore>,
}

impl ServiceFeeds {
    /// Feeds from this store's log, and Redis if there is one.
    pub fn new(store: Arc<dyn Store>, redis: Option<Arc<Redis>>) -> Self {
        Self {
            store,
            redis,
            changes: broadcast::channel(BACKLOG).0,
            poke: Notify::new(),
            room: Arc::new(Semaphore::new(MAX_FEEDS)),
        }
    }

    /// Something has changed.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    /// Tells changes until the process ends. A failing store or Redis is waited out.
    pub async fn run(&self) {
        let (mut feeds, mut redis) = (None, None);
        let mut failing = false;
        loop {
            let outcome = self.round(&mut feeds, &mut redis).await;
            match outcome {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    log::warn!("changes of services cannot be told for now: {error}");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = self.poke.notified() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    async fn round(
        &self,
        feeds: &mut Option<u64>,
        told: &mut Option<u64>,
    ) -> Result<(), StoreError> {
        let now = self.store.services_generation().await?;
        let place = feeds.get_or_insert(now);
        while let Some(changes) = self.next(place, now).await? {
            for change in changes {
                *place = change.published.generation;
                // Nobody listening is no failure: the log keeps the change.
                let _ = self.changes.send(Some(Arc::new(change)));
            }
        }
        let Some(redis) = &self.redis else {
            return Ok(());
        };
        let place = told.get_or_insert(now);
        while let Some(changes) = self.next(place, now).await? {
            for change in changes {
                if let Err(error) = publish(redis, &change).await {
                    // Order matters more than speed: the rest waits with this one.
                    log::debug!("a change of a service is not published yet: {error}");
                    return Ok(());
                }
                *place = change.published.generation;
            }
        }
        Ok(())
    }

    /// The next changes after `place`; `None` if there are none. Where the log no longer reaches
    /// back that far, or the store has gone back, `place` is moved to `now`: gateways find the gap.
    async fn next(
        &self,
        place: &mut u64,
        now: u64,
    ) -> Result<Option<Vec<LoggedService>>, StoreError> {
        if *place == now {
            return Ok(None);
        }
        match self.store.service_changes_after(*place, BATCH).await? {
            Some(changes) => Ok(Some(changes).filter(|changes| !changes.is_empty())),
            None => {
                *place = now;
                let _ = self.changes.send(None);
                Ok(None)
            }
        }
    }

    /// Opens a feed, from `after` or, without it, from now. `None` if too many are open.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn open(&self, after: Option<u64>) -> Result<Option<ServiceFeed>, StoreError> {
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            return Ok(None);
        };
        // Subscribed before the generation is read, so that no change falls between.
        let changes = self.changes.subscribe();
        let generation = self.store.services_generation().await?;
        let place = after.unwrap_or(generation);
        Ok(Some(ServiceFeed {
            store: Arc::clone(&self.store),
            place,
            behind: place != generation,
            ready: VecDeque::from([ServiceItem::Hello(generation)]),
            changes,
            alive_until: Instant::now() + KEEP_ALIVE,
            _room: room,
        }))
    }
}

async fn publish(
    redis: &Redis,
    change: &LoggedService,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let wire = serde_json::to_string(&change.published)?;
    Ok(redis.say(CHANNEL, wire).await?)
}

/// One gateway's reader of the changes.
pub struct ServiceFeed {
    store: Arc<dyn Store>,
    place: u64,
    /// What is next has to be read from the log.
    behind: bool,
    ready: VecDeque<ServiceItem>,
    changes: broadcast::Receiver<Option<Arc<LoggedService>>>,
    alive_until: Instant,
    _room: OwnedSemaphorePermit,
}

impl ServiceFeed {
    /// The next item. Waits for one, at most until it is time to say that nothing happened.
    ///
    /// # Errors
    /// If the store fails; the reader comes again and resumes.
    pub async fn next(&mut self) -> Result<ServiceItem, StoreError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                self.alive_until = Instant::now() + KEEP_ALIVE;
                return Ok(item);
            }
            if self.behind {
                self.read_log().await?;
                continue;
            }
            tokio::select! {
                change = self.changes.recv() => match change {
                    Ok(Some(change)) => self.take(change),
                    Ok(None) | Err(_) => self.behind = true,
                },
                () = tokio::time::sleep_until(self.alive_until) => {
                    self.ready.push_back(ServiceItem::KeepAlive);
                }
            }
        }
    }

    fn take(&mut self, change: Arc<LoggedService>) {
        let generation = change.published.generation;
        if generation == self.place + 1 {
            self.place = generation;
            self.ready.push_back(ServiceItem::Change(change));
        } else if generation > self.place {
            self.behind = true;
        }
    }

    async fn read_log(&mut self) -> Result<(), StoreError> {
        match self.store.service_changes_after(self.place, BATCH).await? {
            Some(changes) => {
                // A full batch may not be all.
                self.behind = changes.len() == BATCH;
                for change in changes {
                    self.take(Arc::new(change));
                }
            }
            None => {
                self.behind = false;
                self.place = self.store.services_generation().await?;
                self.ready.push_back(ServiceItem::Resync(self.place));
            }
        }
        Ok(())
    }
}
