//! The coordinator's own bus: one feed per listening worker, read from the store's log.
//!
//! What a feed sends always comes out of the log, in order and without gaps; the notifications
//! here only say that it is worth looking. Changes made by other coordinators over the same
//! database are found by looking again every [`POLL`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dashmap::DashMap;
use patchbay_common::id::WorkerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::Instant;

use super::{Announcement, PublishError, Publisher};
use crate::store::{LoggedEvent, Store, StoreError};

/// How often an open feed looks for changes made elsewhere.
const POLL: Duration = Duration::from_millis(200);
/// A quiet feed says this often that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Events taken from the log at once.
const BATCH: usize = 256;
/// Notifications a slow feed may miss before it just looks at the log.
const BACKLOG: usize = 64;
/// Feeds open at once.
const MAX_FEEDS: usize = 4096;

/// What a feed hands out.
#[derive(Clone, Debug)]
pub enum Item {
    /// The first item: the worker's generation.
    Hello(u64),
    /// A change from the log.
    Event(Arc<LoggedEvent>),
    /// A change told before; does not move the reader's place.
    Again(Arc<LoggedEvent>),
    /// The log does not reach back to the reader's place; it goes on from this generation.
    Resync(u64),
    /// Nothing happened for a while.
    KeepAlive,
}

/// The listening workers.
pub struct Streams {
    listeners: DashMap<WorkerId, broadcast::Sender<Option<Arc<LoggedEvent>>>>,
    room: Arc<Semaphore>,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            listeners: DashMap::new(),
            room: Arc::new(Semaphore::new(MAX_FEEDS)),
        }
    }
}

impl Streams {
    /// Opens a worker's feed, from `after` or, without it, from now. `None` if too many are open.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn open(
        &self,
        store: Arc<dyn Store>,
        worker: WorkerId,
        after: Option<u64>,
    ) -> Result<Option<Feed>, StoreError> {
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            return Ok(None);
        };
        // Subscribed before the generation is read, so that no change falls between.
        let notes = self
            .listeners
            .entry(worker)
            .or_insert_with(|| broadcast::channel(BACKLOG).0)
            .subscribe();
        let generation = store.generation(worker).await?;
        Ok(Some(Feed {
            store,
            worker,
            place: after.unwrap_or(generation),
            ready: VecDeque::from([Item::Hello(generation)]),
            notes,
            look: true,
            alive_until: Instant::now() + KEEP_ALIVE,
            _room: room,
        }))
    }

    /// How many feeds are open.
    pub fn open_feeds(&self) -> usize {
        MAX_FEEDS - self.room.available_permits()
    }

    /// Drops the channels of workers nobody listens for.
    pub fn tidy(&self) {
        self.listeners.retain(|_, notes| notes.receiver_count() > 0);
    }
}

#[async_trait]
impl Publisher for Streams {
    fn name(&self) -> &'static str {
        "stream"
    }

    async fn publish(&self, announcement: &Announcement) -> Result<(), PublishError> {
        if let Some(notes) = self.listeners.get(&announcement.event.worker) {
            let note = announcement.again.then(|| Arc::clone(&announcement.event));
            // Nobody listening is no failure: the log keeps the change.
            let _ = notes.send(note);
        }
        Ok(())
    }
}

/// One worker's reader of its changes.
pub struct Feed {
    store: Arc<dyn Store>,
    worker: WorkerId,
    place: u64,
    ready: VecDeque<Item>,
    notes: broadcast::Receiver<Option<Arc<LoggedEvent>>>,
    look: bool,
    alive_until: Instant,
    _room: OwnedSemaphorePermit,
}

impl Feed {
    /// The next item. Waits for one, at most until it is time to say that nothing happened.
    ///
    /// # Errors
    /// If the store fails; the reader comes again and resumes.
    pub async fn next(&mut self) -> Result<Item, StoreError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                self.alive_until = Instant::now() + KEEP_ALIVE;
                return Ok(item);
            }
            if std::mem::take(&mut self.look) {
                self.read_log().await?;
                continue;
            }
            tokio::select! {
                note = self.notes.recv() => match note {
                    Ok(Some(event)) => {
                        // What the log has first comes first.
                        self.read_log().await?;
                        self.ready.push_back(Item::Again(event));
                    }
                    Ok(None) | Err(_) => self.look = true,
                },
                () = tokio::time::sleep(POLL) => self.look = true,
                () = tokio::time::sleep_until(self.alive_until) => {
                    self.ready.push_back(Item::KeepAlive);
                }
            }
        }
    }

    async fn read_log(&mut self) -> Result<(), StoreError> {
        match self
            .store
            .events_after(self.worker, self.place, BATCH)
            .await?
        {
            Some(events) => {
                // A full batch may not be all.
                self.look = events.len() == BATCH;
                for event in events {
                    self.place = event.generation;
                    self.ready.push_back(Item::Event(Arc::new(event)));
                }
            }
            None => {
                self.place = self.store.generation(self.worker).await?;
                self.ready.push_back(Item::Resync(self.place));
            }
        }
        Ok(())
    }
}
