//! Requests that wait for an upstream with room: so many, and so long.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The waiting room of one circuit.
#[derive(Debug, Default)]
pub(super) struct Room {
    waiting: AtomicUsize,
    freed: Notify,
}

/// A place in it.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Room);

impl Room {
    /// A place, unless `length` others wait.
    pub(super) fn enter(&self, length: usize) -> Option<Place<'_>> {
        let place = Place(self);
        (self.waiting.fetch_add(1, Ordering::Relaxed) < length).then_some(place)
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// An upstream has room again: the first in line may try.
    pub(super) fn freed(&self) {
        if self.waiting() > 0 {
            self.freed.notify_one();
        }
    }
}

impl Place<'_> {
    /// Ends when there may be room.
    pub(super) fn room(&self) -> Notified<'_> {
        self.0.freed.notified()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
