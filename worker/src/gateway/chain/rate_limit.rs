//! Rate limit: a token bucket (GCRA) for each route and key.
//!
//! A request without the thing it is keyed by shares one bucket with all such requests. Buckets
//! that are full again are dropped, and their number is bounded: where it is reached, new keys
//! share one bucket until others are dropped.

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

use super::{Passage, Step, header_value};
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
        })
    }

    /// What it is keyed by.
    pub fn key(&self) -> &LimitKey {
        &self.key
    }

    /// Buckets there are.
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Drops the buckets that are full again.
    pub fn sweep(&self) {
        self.buckets.retain_recent();
        self.buckets.shrink_to_fit();
    }

    pub(super) fn start(self: &Arc<Self>) {
        if self.sweeping.swap(true, Ordering::Relaxed) {
            return;
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
        let hash = match &self.key {
            LimitKey::Address => match client.address.ip().to_canonical() {
                IpAddr::V4(ip) => self.hasher.hash_one((route, ip)),
                IpAddr::V6(ip) => self.hasher.hash_one((route, ip.to_bits() >> 64)),
            },
            LimitKey::Subject => self.hasher.hash_one((route, passage.subject.as_deref())),
            LimitKey::Header(name) => self.hasher.hash_one((route, head.headers.get(name))),
            LimitKey::Route => self.hasher.hash_one(route),
        };
        if self.is_full() { CROWD } else { hash }
    }

    /// Counting visits every shard, so it is done now and then; a few buckets too many do not hurt.
    fn is_full(&self) -> bool {
        if self.checks.fetch_add(1, Ordering::Relaxed) % COUNT_EVERY == 0 {
            let full = self.buckets.len() >= MAX_BUCKETS;
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
