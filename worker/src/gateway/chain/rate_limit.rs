//! Rate limit: a token bucket (GCRA) for each route and key.
//!
//! A request without the thing it is keyed by shares one bucket with all such requests. Buckets
//! that are full again are dropped, and their number is bounded: where it is reached, new keys
//! share one bucket until others are dropped. A shared limit takes its tokens where other workers
//! take theirs (`shared`); this worker's own bucket is charged too, so that it is no gift when it
//! has to decide alone.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ahash::RandomState;
use governor::clock::{Clock as _, QuantaClock, QuantaInstant};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use http::HeaderName;
use sha2::{Digest as _, Sha256};

use super::shared::{Decision, Ledger, Lots};
use super::{Passage, Step, Wait, header_value};
use crate::gateway::refusal::GatewayRefusal;
use crate::stage::{Client, Head};

/// Most buckets of one limit.
const MAX_BUCKETS: usize = 1_000_000;
/// Between sweeps of full buckets.
const SWEEP: Duration = Duration::from_secs(10);
/// Requests between two counts of the buckets.
const COUNT_EVERY: u64 = 256;
/// The bucket of keys for which there is no room.
const CROWD: u64 = 0;

/// Drafted for the IETF (draft-ietf-httpapi-ratelimit-headers).
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

type Buckets =
    RateLimiter<u64, DashMapStateStore<u64, RandomState>, QuantaClock, StateInformationMiddleware>;

/// What tells one bucket from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// The client's address; of IPv6 its /64 network, which one host has for itself.
    Address,
    /// Who asks, as found by a stage before.
    Subject,
    /// A header's value.
    Header(String),
    /// Nothing but the route.
    Route,
}

/// What tells one client from another.
enum Told<'a> {
    Address(u128),
    Text(Option<&'a [u8]>),
}

/// A limit.
#[derive(Debug)]
pub struct RateLimit {
    key: LimitKey,
    buckets: Buckets,
    clock: QuantaClock,
    hasher: RandomState,
    /// Between two tokens.
    period: Duration,
    burst: u32,
    policy: http::HeaderValue,
    name: String,
    checks: AtomicU64,
    full: AtomicBool,
    sweeping: AtomicBool,
    /// Where it is shared with other workers.
    lots: Option<Arc<Lots>>,
}

/// A question to the ledger of a shared limit.
#[derive(Debug)]
pub struct Asking {
    lots: Arc<Lots>,
    key: u64,
    bucket: String,
}

impl Asking {
    pub(super) async fn ask(self) -> Decision {
        self.lots.ask(self.key, &self.bucket).await
    }
}

impl RateLimit {
    /// One token every `period`, at most `burst` kept. `None` if `period` is zero.
    pub fn new(name: &str, key: LimitKey, period: Duration, burst: NonZeroU32) -> Option<Self> {
        let quota = Quota::with_period(period)?.allow_burst(burst);
        let clock = QuantaClock::default();
        let store = DashMapStateStore::with_hasher(RandomState::new());
        let window = period.saturating_mul(burst.get()).as_secs_f64().ceil();
        Some(Self {
            key,
            buckets: Buckets::new(quota, store, clock.clone()),
            clock,
            hasher: RandomState::new(),
            period,
            burst: burst.get(),
            policy: header_value(&format!("\"{name}\";q={burst};w={window}")),
            name: name.to_owned(),
            checks: AtomicU64::new(0),
            full: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
            lots: None,
        })
    }

    /// The same, shared with every worker that takes from this ledger.
    #[must_use]
    pub fn shared(mut self, ledger: Arc<dyn Ledger>) -> Self {
        self.lots = Some(Arc::new(Lots::new(ledger, self.period, self.burst)));
        self
    }

    /// What it is keyed by.
    pub fn key(&self) -> &LimitKey {
        &self.key
    }

    /// Buckets there are.
    pub fn buckets(&self) -> usize {
        let shared = self.lots.as_ref().map_or(0, |lots| lots.len());
        self.buckets.len().max(shared)
    }

    /// Drops the buckets that are full again.
    pub fn sweep(&self) {
        self.buckets.retain_recent();
        self.buckets.shrink_to_fit();
        if let Some(lots) = &self.lots {
            lots.sweep();
        }
    }

    pub(super) fn start(self: &Arc<Self>) {
        if self.sweeping.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(lots) = &self.lots {
            lots.open();
        }
        let limit = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(SWEEP);
            loop {
                ticks.tick().await;
                match limit.upgrade() {
                    Some(limit) => limit.sweep(),
                    None => return,
                }
            }
        });
    }

    fn bucket(&self, head: &Head<'_>, client: &Client, route: &str, passage: &Passage) -> u64 {
        let hash = match self.told_by(head, client, passage) {
            Told::Address(bits) => self.hasher.hash_one((route, bits)),
            Told::Text(text) => self.hasher.hash_one((route, text)),
        };
        if self.is_full() { CROWD } else { hash }
    }

    /// What the buckets of one route are told apart by.
    fn told_by<'a>(&self, head: &'a Head<'_>, client: &Client, passage: &'a Passage) -> Told<'a> {
        match &self.key {
            LimitKey::Address => Told::Address(match client.address.ip().to_canonical() {
                IpAddr::V4(ip) => u128::from(ip.to_bits()),
                // No /64 network in use is that small a number.
                IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
            }),
            LimitKey::Subject => Told::Text(passage.subject.as_deref().map(str::as_bytes)),
            LimitKey::Header(name) => Told::Text(head.headers.get(name)),
            LimitKey::Route => Told::Text(None),
        }
    }

    /// A bucket's name for the ledger: the same on all workers, of bounded length, and nobody can
    /// read a credential from it.
    fn name_of(&self, key: u64, head: &Head<'_>, route: &str, at: (&Client, &Passage)) -> String {
        let mut digest = Sha256::new();
        for part in [route.as_bytes(), &self.burst.to_be_bytes()] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.update(self.period.as_nanos().to_be_bytes());
        match self.told_by(head, at.0, at.1) {
            _ if key == CROWD => digest.update(b"crowd"),
            Told::Address(bits) => digest.update(bits.to_be_bytes()),
            Told::Text(None) => {}
            Told::Text(Some(text)) => {
                digest.update([0]);
                digest.update(text);
            }
        }
        let digest = digest.finalize();
        let mut name = format!("patchbay:limit:{}:", self.name);
        for byte in &digest[..16] {
            // Writing to a String cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        name
    }

    /// Counting visits every shard, so it is done now and then; a few buckets too many do not hurt.
    fn is_full(&self) -> bool {
        if self
            .checks
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(COUNT_EVERY)
        {
            let full = self.buckets() >= MAX_BUCKETS;
            self.full.store(full, Ordering::Relaxed);
        }
        self.full.load(Ordering::Relaxed)
    }

    pub(super) fn run(
        &self,
        head: &Head<'_>,
        client: &Client,
        route: &str,
        passage: &mut Passage,
    ) -> Result<Option<Step>, GatewayRefusal> {
        let bucket = self.bucket(head, client, route, passage);
        if let Some(lots) = &self.lots {
            let told = passage.decision.take();
            match told.or_else(|| lots.decide(bucket)) {
                None => {
                    let asking = Asking {
                        lots: Arc::clone(lots),
                        key: bucket,
                        bucket: self.name_of(bucket, head, route, (client, &*passage)),
                    };
                    return Ok(Some(Step::Wait(Wait::Tokens(Box::new(asking)))));
                }
                Some(Decision::Go(left)) => {
                    // Its own bucket may be empty: others decide now.
                    let _ = self.buckets.check_key(&bucket);
                    let full_in = self.period.saturating_mul(self.burst.saturating_sub(left));
                    self.tell(passage, left, whole_seconds(full_in));
                    return Ok(None);
                }
                Some(Decision::Stop(wait)) => {
                    let retry_after = whole_seconds(wait).max(1);
                    self.tell(passage, 0, retry_after);
                    return Err(GatewayRefusal::TooMany { retry_after });
                }
                Some(Decision::Alone) => {}
            }
        }
        self.decide_alone(bucket, passage)
    }

    fn decide_alone(
        &self,
        bucket: u64,
        passage: &mut Passage,
    ) -> Result<Option<Step>, GatewayRefusal> {
        match self.buckets.check_key(&bucket) {
            Ok(state) => {
                let left = state.remaining_burst_capacity();
                let full_in = self.period.saturating_mul(self.burst.saturating_sub(left));
                self.tell(passage, left, whole_seconds(full_in));
                Ok(None)
            }
            Err(until) => {
                let now: QuantaInstant = self.clock.now();
                let retry_after = whole_seconds(until.wait_time_from(now)).max(1);
                self.tell(passage, 0, retry_after);
                Err(GatewayRefusal::TooMany { retry_after })
            }
        }
    }

    fn tell(&self, passage: &mut Passage, left: u32, seconds: u64) {
        let state = format!("\"{}\";r={left};t={seconds}", self.name);
        passage.to_client.push((RATELIMIT, header_value(&state)));
        let policy = self.policy.clone();
        passage.to_client.push((RATELIMIT_POLICY, policy));
    }
}

/// Rounded up.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
