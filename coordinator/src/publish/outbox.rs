//! Repeats what did not get through, and forgets what is old.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use patchbay_common::id::WorkerId;
use tokio::sync::mpsc;

use super::{Announcement, Bus, Mark, Streams};
use crate::store::{Store, StoreError};

/// Notes of published events that may wait to be written. One that finds no room is repeated,
/// which the receiving worker recognises by its generation.
const NOTES: usize = 4096;
/// How often notes are written down.
const WRITE_EVERY: Duration = Duration::from_millis(200);
/// How often the log is searched for what did not get through.
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// An event younger than this is still on its first way.
const PATIENCE: TimeDelta = TimeDelta::milliseconds(500);
/// Events repeated at once.
const BATCH: usize = 256;
/// How often old events are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// How long a worker may be away and still resume from the log instead of fetching everything.
const KEEP: TimeDelta = TimeDelta::hours(1);

/// The note that an event went out, handed to the [`Outbox`].
#[derive(Clone)]
pub struct Published(mpsc::Sender<Mark>);

impl Published {
    pub(super) fn note(&self, worker: WorkerId, generation: u64) {
        if self.0.try_send((worker, generation)).is_err() {
            log::debug!("the note of a published event found no room; the event is repeated");
        }
    }
}

/// The background half: it owns the notes and sweeps the log.
pub struct Outbox {
    notes: mpsc::Receiver<Mark>,
}

impl Outbox {
    /// Both halves.
    pub fn new() -> (Published, Self) {
        let (sender, notes) = mpsc::channel(NOTES);
        (Published(sender), Self { notes })
    }

    /// Works until the process ends. A failing store is waited out.
    pub async fn run(&mut self, store: &Arc<dyn Store>, bus: &Bus, streams: &Streams) {
        let mut write = tokio::time::interval(WRITE_EVERY);
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        let mut prune = tokio::time::interval(PRUNE_EVERY);
        for ticks in [&mut write, &mut sweep, &mut prune] {
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        let mut failing = false;
        loop {
            let outcome = tokio::select! {
                _ = write.tick() => self.write_notes(store.as_ref()).await,
                _ = sweep.tick() => self.sweep(store.as_ref(), bus).await,
                _ = prune.tick() => {
                    streams.tidy();
                    forget(store.as_ref()).await
                }
            };
            match outcome {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    log::warn!("events cannot be swept for now: {error}");
                }
                Err(_) => {}
            }
        }
    }

    /// Writes down what went out, also before the process ends.
    pub async fn write_notes(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let mut marks = Vec::new();
        while marks.len() < NOTES
            && let Ok(mark) = self.notes.try_recv()
        {
            marks.push(mark);
        }
        if marks.is_empty() {
            return Ok(());
        }
        store.mark_published(&marks).await
    }

    async fn sweep(&mut self, store: &dyn Store, bus: &Bus) -> Result<(), StoreError> {
        self.write_notes(store).await?;
        let waiting = store.unpublished(Utc::now() - PATIENCE, BATCH).await?;
        let mut marks = Vec::new();
        let given_up = Utc::now() - KEEP;
        for event in waiting {
            let mark = (event.worker, event.generation);
            if event.created_at < given_up {
                log::warn!(
                    worker = event.event.authority.as_str(), generation = event.generation;
                    "an event could not be published for an hour and is given up"
                );
                marks.push(mark);
                continue;
            }
            let announcement = Announcement {
                event: Arc::new(event),
                again: false,
            };
            if !bus.send(&announcement).await {
                // Order matters more than speed: the rest waits with this one.
                break;
            }
            marks.push(mark);
        }
        if marks.is_empty() {
            return Ok(());
        }
        log::info!(count = marks.len(); "events were published late");
        store.mark_published(&marks).await
    }
}

async fn forget(store: &dyn Store) -> Result<(), StoreError> {
    let count = store.prune_events(Utc::now() - KEEP).await?;
    if count > 0 {
        log::debug!(count = count; "old events were forgotten");
    }
    Ok(())
}
