//! What a circuit has carried since this worker knows it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{TokenCounts, TokenTally};

/// Counts of one circuit.
#[derive(Debug, Default)]
pub struct Tally {
    requests: AtomicU64,
    errors: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    tokens: OnceLock<Box<TokenTally>>,
}

impl Tally {
    /// A request, or a stream, has ended with this status.
    pub fn add(&self, status: u16, received: u64, sent: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if status >= 500 {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        if received > 0 {
            self.received.fetch_add(received, Ordering::Relaxed);
        }
        if sent > 0 {
            self.sent.fetch_add(sent, Ordering::Relaxed);
        }
    }

    /// What its model says; few circuits have one.
    pub fn tokens(&self) -> &TokenTally {
        self.tokens.get_or_init(Box::default)
    }

    /// What its model has said, if it has one.
    pub fn token_counts(&self) -> Option<TokenCounts> {
        self.tokens.get().map(|tally| tally.counts())
    }

    /// Requests and streams that have ended.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Those answered with a status from 500 on.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Bytes from clients.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes to clients.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
