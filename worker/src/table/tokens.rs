//! What the models behind a circuit have said, and how fast.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets, in seconds: from a small model's pace to a long prompt's wait.
pub const BOUNDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Counts of one circuit.
#[derive(Debug, Default)]
pub struct TokenTally {
    streams: AtomicU64,
    tokens: AtomicU64,
    first: Times,
    gap: Times,
}

#[derive(Debug, Default)]
struct Times {
    /// One more than there are bounds: the last has none.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// A histogram as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// How many were not above each bound.
    pub up_to: [u64; BOUNDS.len()],
    /// How many there were.
    pub count: u64,
    /// Their sum, in seconds.
    pub sum: f64,
}

/// The counts as they stand.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenCounts {
    /// Answers that streamed.
    pub streams: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// From a request to its first token.
    pub first: Distribution,
    /// From one token to the next.
    pub gap: Distribution,
}

impl Times {
    fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let place = BOUNDS.iter().position(|bound| seconds <= *bound);
        self.buckets[place.unwrap_or(BOUNDS.len())].fetch_add(1, Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Relaxed);
    }

    fn read(&self) -> Distribution {
        let mut count = 0;
        let mut up_to = [0; BOUNDS.len()];
        for (place, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Relaxed);
            if let Some(sum) = up_to.get_mut(place) {
                *sum = count;
            }
        }
        Distribution {
            up_to,
            count,
            sum: self.micros.load(Relaxed) as f64 / 1e6,
        }
    }
}

impl TokenTally {
    /// An answer begins to stream.
    pub fn stream(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    /// Its first token has come, after this time.
    pub fn first(&self, time: Duration) {
        self.first.observe(time);
    }

    /// Another has come, this long after the one before.
    pub fn next(&self, time: Duration) {
        self.gap.observe(time);
    }

    /// There are so many tokens more.
    pub fn add(&self, tokens: u64) {
        self.tokens.fetch_add(tokens, Relaxed);
    }

    /// The counts.
    pub fn counts(&self) -> TokenCounts {
        TokenCounts {
            streams: self.streams.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            first: self.first.read(),
            gap: self.gap.read(),
        }
    }
}
