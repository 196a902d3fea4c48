//! Health of one upstream: faults counted by traffic and by checks, and the ramp after recovery.
//!
//! Only faults of the upstream's side count; a client that goes away says nothing about the
//! kernel (contract/pitfalls.md A3). A route is never given up: it is probed until it answers or
//! its circuit is gone (A15).

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::Settings;

/// What went wrong at an upstream. Nothing a client does is a fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its name does not resolve.
    #[error("its name does not resolve")]
    Resolve,
    /// The connection was refused or could not be made.
    #[error("it refuses connections")]
    Connect,
    /// The connection was not taken in time.
    #[error("it did not take the connection in time")]
    ConnectTimeout,
    /// It broke off before its answer's head was complete, or did not speak HTTP.
    #[error("it broke off before it answered")]
    Broke,
    /// Its answer's head did not come in time.
    #[error("it did not answer in time")]
    FirstByteTimeout,
    /// Checks failed.
    #[error("its health check failed: {0}")]
    Check(String),
}

impl Fault {
    /// The kinds, as [`Fault::kind`] names them.
    pub(super) const KINDS: [&str; 6] = [
        "resolve",
        "connect",
        "connect_timeout",
        "broke",
        "first_byte_timeout",
        "check",
    ];

    /// The kind's word in metrics.
    pub fn kind(&self) -> &'static str {
        Self::KINDS[self.index()]
    }

    pub(super) fn index(&self) -> usize {
        match self {
            Self::Resolve => 0,
            Self::Connect => 1,
            Self::ConnectTimeout => 2,
            Self::Broke => 3,
            Self::FirstByteTimeout => 4,
            Self::Check(_) => 5,
        }
    }

    /// Whether the upstream failed after it had taken the connection.
    fn is_after_connect(&self) -> bool {
        matches!(self, Self::Broke | Self::FirstByteTimeout)
    }
}

mod state {
    pub(super) const UP: u8 = 0;
    /// Traffic found it faulty.
    pub(super) const FAULTY: u8 = 1;
    /// Its checks fail: only a good check brings it back.
    pub(super) const UNCHECKED: u8 = 2;
}

/// Least share of an upstream that has just come back.
const RAMP_START: f64 = 0.1;

/// What is known of an upstream.
#[derive(Debug)]
pub struct Health {
    state: AtomicU8,
    connect_faults: AtomicU32,
    answer_faults: AtomicU32,
    check_faults: AtomicU32,
    /// Unix milliseconds of the last change of `state`.
    since: AtomicU64,
    /// Milliseconds after `origin` when it came back and its share began to grow; 0: it has all.
    recovered: AtomicU64,
    origin: Instant,
    last_fault: Mutex<Option<Fault>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(state::UP),
            connect_faults: AtomicU32::new(0),
            answer_faults: AtomicU32::new(0),
            check_faults: AtomicU32::new(0),
            since: AtomicU64::new(unix_millis()),
            recovered: AtomicU64::new(0),
            origin: Instant::now(),
            last_fault: Mutex::new(None),
        }
    }
}

impl Health {
    /// Whether requests may be sent there.
    pub fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) == state::UP
    }

    /// Since when it is as it is.
    pub fn since(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.since.load(Ordering::Relaxed))
    }

    /// The latest fault, which may be long mended.
    pub fn last_fault(&self) -> Option<Fault> {
        self.last_fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A connection was made: what kept others from being made is forgiven.
    pub fn connected(&self) {
        forgive(&self.connect_faults);
        if self.state.load(Ordering::Relaxed) == state::FAULTY
            && self.answer_faults.load(Ordering::Relaxed) == 0
        {
            self.change(state::FAULTY, state::UP);
        }
    }

    /// An answer came: all that traffic found is forgiven.
    pub fn answered(&self) {
        forgive(&self.connect_faults);
        forgive(&self.answer_faults);
        if self.state.load(Ordering::Relaxed) == state::FAULTY {
            self.change(state::FAULTY, state::UP);
        }
    }

    /// A check was passed: everything is forgiven. True if this brought it back.
    pub fn passed(&self) -> bool {
        forgive(&self.connect_faults);
        forgive(&self.answer_faults);
        forgive(&self.check_faults);
        let before = self.state.load(Ordering::Relaxed);
        before != state::UP && self.change(before, state::UP)
    }

    /// The upstream failed; with `limit` faults in a row it is out of service. True if this fault
    /// took it out.
    pub fn failed(&self, fault: Fault, limit: u32) -> bool {
        let (counter, state) = match &fault {
            Fault::Check(_) => (&self.check_faults, state::UNCHECKED),
            fault if fault.is_after_connect() => (&self.answer_faults, state::FAULTY),
            _ => (&self.connect_faults, state::FAULTY),
        };
        let faults = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        *self
            .last_fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(fault);
        if faults < limit {
            return false;
        }
        let ejected = self.change(state::UP, state);
        if state == state::UNCHECKED {
            self.change(state::FAULTY, state::UNCHECKED);
        }
        ejected
    }

    /// The part of its share that it gets: less than 1 for a while after it came back.
    pub fn ramp(&self, settings: &Settings) -> f64 {
        let recovered = self.recovered.load(Ordering::Relaxed);
        if recovered == 0 {
            return 1.0;
        }
        let since = self.millis().saturating_sub(recovered);
        let whole = settings.slow_start.as_millis() as u64;
        if since >= whole {
            self.recovered.store(0, Ordering::Relaxed);
            return 1.0;
        }
        (since as f64 / whole as f64).max(RAMP_START)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let changed = self
            .state
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if changed && (from == state::UP || to == state::UP) {
            self.since.store(unix_millis(), Ordering::Relaxed);
            let recovered = if to == state::UP { self.millis() } else { 0 };
            self.recovered.store(recovered, Ordering::Relaxed);
        }
        changed
    }

    /// Milliseconds after `origin`, from 1 on.
    fn millis(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64 + 1
    }
}

/// Reads first: a store on every request would move the line between the threads' caches.
fn forgive(counter: &AtomicU32) {
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
}

fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
