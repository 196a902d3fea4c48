//! One bucket for several workers.
//!
//! The buckets are kept where all workers see them (a [`Ledger`]). A worker takes tokens from there
//! in small lots and spends them by itself, so that a busy key costs a call now and then and not
//! one for each request. A lot grows while it is used up at once and is forgotten when it is not;
//! an empty bucket is not asked again before it can have a token. One call for a key is under way
//! at a time. Who waits for one waits [`PATIENCE`] at most: then, and while the ledger is out of
//! reach, the worker's own bucket decides.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, timeout_at};

/// Longest wait of a request for the ledger.
const PATIENCE: Duration = Duration::from_millis(100);
/// A lot is at most what the rate grants in this time.
const LOT: Duration = Duration::from_millis(20);
/// Tokens of a lot that are not spent in this time are given up.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// Shortest pause before an empty bucket is looked at again, where it is deep enough.
const PAUSE: Duration = Duration::from_millis(5);

/// A bucket to take tokens from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Its name, the same on all workers.
    pub bucket: String,
    /// How many.
    pub tokens: u32,
    /// Between two tokens.
    pub period: Duration,
    /// Most the bucket holds.
    pub burst: u32,
}

/// What was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Tokens, as many as were wanted or fewer.
    pub tokens: u32,
    /// Tokens left in the bucket.
    pub left: u32,
    /// Until there is one, if none is left.
    pub wait: Duration,
}

/// Buckets that several workers take from.
pub trait Ledger: fmt::Debug + Send + Sync {
    /// There is a limit that will ask it.
    fn open(&self);
    /// Whether it is worth asking.
    fn is_up(&self) -> bool;
    /// Takes what there is; `None` if it cannot be asked. Ends in bounded time.
    fn take(&self, want: Want) -> BoxFuture<'static, Option<Taken>>;
}

/// A ledger that is never up: a configuration that is only looked at has none.
#[derive(Debug)]
pub struct NoLedger;

impl Ledger for NoLedger {
    fn open(&self) {}

    fn is_up(&self) -> bool {
        false
    }

    fn take(&self, _: Want) -> BoxFuture<'static, Option<Taken>> {
        Box::pin(std::future::ready(None))
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It has a token; so many are left.
    Go(u32),
    /// There will be none before this.
    Stop(Duration),
    /// The ledger does not say: the worker's own bucket decides.
    Alone,
}

/// What a worker has taken and not spent, by key.
#[derive(Debug)]
pub(super) struct Lots {
    lots: DashMap<u64, Lot, RandomState>,
    ledger: Arc<dyn Ledger>,
    origin: Instant,
    period: Duration,
    burst: u32,
}

/// Times are microseconds after the origin.
#[derive(Debug, Default)]
struct Lot {
    tokens: u32,
    /// Tokens of the next one.
    size: u32,
    /// Left in the bucket.
    left: u32,
    taken: u64,
    /// The bucket has nothing before this.
    empty_until: u64,
    /// The call under way.
    call: Option<Arc<Notify>>,
}

enum Spent {
    Decided(Decision),
    /// Wait for a call that is under way.
    Join(OwnedNotified),
    /// Make one, for so many.
    Call(OwnedNotified, u32),
}

impl Lots {
    pub(super) fn new(ledger: Arc<dyn Ledger>, period: Duration, burst: u32) -> Self {
        Self {
            lots: DashMap::default(),
            ledger,
            origin: Instant::now(),
            period,
            burst,
        }
    }

    pub(super) fn open(&self) {
        self.ledger.open();
    }

    /// Keys something is known of.
    pub(super) fn len(&self) -> usize {
        self.lots.len()
    }

    /// Forgets keys nobody has asked with lately.
    pub(super) fn sweep(&self) {
        let now = self.now();
        let idle = micros(GOOD_FOR);
        self.lots.retain(|_, lot| {
            lot.call.is_some() || now < lot.empty_until || now < lot.taken.saturating_add(idle)
        });
        self.lots.shrink_to_fit();
    }

    /// Decides by what is here; `None` if the ledger has to be asked.
    pub(super) fn decide(&self, key: u64) -> Option<Decision> {
        if !self.ledger.is_up() {
            return Some(Decision::Alone);
        }
        let mut lot = self.lots.get_mut(&key)?;
        lot.spend(self.now())
    }

    /// Decides, and asks the ledger where that is needed.
    pub(super) async fn ask(self: &Arc<Self>, key: u64, bucket: &str) -> Decision {
        let deadline = Instant::now() + PATIENCE;
        while self.ledger.is_up() && Instant::now() < deadline {
            let told = match self.spend(key) {
                Spent::Decided(decision) => return decision,
                Spent::Join(told) => told,
                Spent::Call(told, tokens) => {
                    self.call(key, bucket, tokens);
                    told
                }
            };
            if timeout_at(deadline, told).await.is_err() {
                break;
            }
        }
        Decision::Alone
    }

    fn spend(&self, key: u64) -> Spent {
        let mut lot = self.lots.entry(key).or_default();
        if let Some(decision) = lot.spend(self.now()) {
            return Spent::Decided(decision);
        }
        if let Some(call) = &lot.call {
            return Spent::Join(Arc::clone(call).notified_owned());
        }
        let call = Arc::new(Notify::new());
        let told = Arc::clone(&call).notified_owned();
        lot.call = Some(call);
        // A lot that was used up at once is followed by a larger one.
        let at_once = self.now() < lot.taken.saturating_add(2 * micros(LOT));
        let most = LOT.as_nanos() / self.period.as_nanos().max(1);
        let most = u32::try_from(most).unwrap_or(u32::MAX).clamp(1, self.burst);
        lot.size = if at_once {
            lot.size.saturating_mul(2)
        } else {
            1
        }
        .clamp(1, most);
        Spent::Call(told, lot.size)
    }

    /// Calls in a task of its own: who asked may go away, the others must hear of it.
    fn call(self: &Arc<Self>, key: u64, bucket: &str, tokens: u32) {
        let taking = self.ledger.take(Want {
            bucket: bucket.to_owned(),
            tokens,
            period: self.period,
            burst: self.burst,
        });
        let lots = Arc::clone(self);
        tokio::spawn(async move {
            let taken = taking.await;
            lots.settle(key, taken);
        });
    }

    fn settle(&self, key: u64, taken: Option<Taken>) {
        let Some(mut lot) = self.lots.get_mut(&key) else {
            return;
        };
        let now = self.now();
        if let Some(taken) = taken {
            lot.tokens = taken.tokens;
            lot.left = taken.left;
            lot.taken = now;
            if taken.left == 0 {
                // A deep bucket loses nothing while it is left alone for a moment.
                let depth = self.period.saturating_mul(self.burst) / 4;
                let pause = taken.wait.max(PAUSE.min(depth));
                lot.empty_until = now.saturating_add(micros(pause));
            }
        }
        if let Some(call) = lot.call.take() {
            call.notify_waiters();
        }
    }

    fn now(&self) -> u64 {
        micros(self.origin.elapsed())
    }
}

impl Lot {
    fn spend(&mut self, now: u64) -> Option<Decision> {
        if self.tokens > 0 && now < self.taken.saturating_add(micros(GOOD_FOR)) {
            self.tokens -= 1;
            return Some(Decision::Go(self.left.saturating_add(self.tokens)));
        }
        self.tokens = 0;
        let wait = self.empty_until.checked_sub(now).filter(|wait| *wait > 0)?;
        Some(Decision::Stop(Duration::from_micros(wait)))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
