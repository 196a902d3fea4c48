//! The policies: which of a set's candidates a request gets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pingora_load_balancing::Backend as RingNode;
use pingora_load_balancing::selection::consistent::KetamaHashing;
use pingora_load_balancing::selection::{BackendIter as _, BackendSelection as _};
use sha2::{Digest as _, Sha256};

use super::set::{Ask, Candidate};
use super::{Policy, Settings};

/// Heaviest weight on the ring, where weights are whole numbers and cost memory.
const RING_WEIGHT: f64 = 10.0;

/// Chooses by a policy. Threads share it; it never waits.
#[derive(Default)]
pub(super) struct Chooser {
    policy: Policy,
    /// State of the random numbers, and the turn of the round robin.
    turn: AtomicU64,
    ring: Option<Ring>,
    alone: bool,
}

impl std::fmt::Debug for Chooser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chooser")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// What came of it.
pub(super) enum Chosen<'a> {
    One(&'a Candidate),
    AllFull,
    NoneInService,
}

impl Chooser {
    pub(super) fn new(candidates: &[Candidate], policy: Policy) -> Self {
        let mut weights = candidates.iter().map(|one| one.weight).filter(|w| *w > 0.0);
        let first = weights.next();
        let equal = weights.all(|weight| Some(weight) == first);
        let policy = match policy {
            Policy::Balanced if equal => Policy::LeastOutstanding,
            Policy::Balanced => Policy::Weighted,
            other => other,
        };
        Self {
            policy,
            turn: AtomicU64::new(0),
            ring: (policy == Policy::ConsistentHash && candidates.len() > 1)
                .then(|| Ring::new(candidates)),
            alone: candidates.len() == 1,
        }
    }

    /// Why a candidate is chosen, in few words.
    pub(super) fn reason(&self) -> &'static str {
        match self.policy {
            _ if self.alone => "it is the only route",
            Policy::Weighted | Policy::Balanced => "by its weight",
            Policy::LeastOutstanding => "it had less to do than another",
            Policy::RoundRobin => "it was its turn",
            Policy::ConsistentHash => "by the client's address",
        }
    }

    pub(super) fn choose<'a>(
        &self,
        candidates: &'a [Candidate],
        ask: &Ask<'_>,
        settings: &Settings,
    ) -> Chosen<'a> {
        if let [only] = candidates {
            return match (is_usable(only, ask), only.is_full(settings, ask)) {
                (true, false) => Chosen::One(only),
                (true, true) => Chosen::AllFull,
                (false, _) => Chosen::NoneInService,
            };
        }
        let fits = |one: &&Candidate| is_usable(one, ask) && !one.is_full(settings, ask);
        let chosen = match self.policy {
            Policy::Weighted | Policy::Balanced => self.weighted(candidates, fits, settings),
            Policy::LeastOutstanding => self.less_loaded(candidates, fits, settings),
            Policy::RoundRobin => self.in_turn(candidates, fits, settings),
            Policy::ConsistentHash => match &self.ring {
                Some(ring) if !ask.key.is_empty() => ring.find(ask.key, candidates, fits),
                _ => self.weighted(candidates, fits, settings),
            },
        };
        match chosen {
            Some(candidate) => Chosen::One(candidate),
            None if candidates.iter().any(|one| is_usable(one, ask)) => Chosen::AllFull,
            None => Chosen::NoneInService,
        }
    }

    fn weighted<'a>(
        &self,
        candidates: &'a [Candidate],
        fits: impl Fn(&&Candidate) -> bool,
        settings: &Settings,
    ) -> Option<&'a Candidate> {
        let share = |one: &Candidate| one.weight * one.upstream.health.ramp(settings);
        let fitting = || candidates.iter().filter(|one| fits(one));
        let total: f64 = fitting().map(share).sum();
        let mut point = self.fraction() * total;
        let mut last = None;
        for candidate in fitting() {
            last = Some(candidate);
            let share = share(candidate);
            if point < share {
                break;
            }
            point -= share;
        }
        last
    }

    fn less_loaded<'a>(
        &self,
        candidates: &'a [Candidate],
        fits: impl Fn(&&Candidate) -> bool,
        settings: &Settings,
    ) -> Option<&'a Candidate> {
        let mut fitting = candidates.iter().filter(|one| fits(one));
        let count = fitting.clone().count();
        if count < 2 {
            return fitting.next();
        }
        let random = self.random();
        let first = random as usize % count;
        let second = (first + 1 + (random >> 32) as usize % (count - 1)) % count;
        let (low, high) = (first.min(second), first.max(second));
        // A health that changes meanwhile may make the list shorter.
        let one = fitting.nth(low)?;
        let Some(other) = fitting.nth(high - low - 1) else {
            return Some(one);
        };
        // Among those with equally much to do, chance decides, not the order of the routes.
        let (one, other) = if first < second {
            (one, other)
        } else {
            (other, one)
        };
        let load = |candidate: &Candidate| {
            let ramp = candidate.upstream.health.ramp(settings);
            (candidate.upstream.outstanding() + 1) as f64 / ramp
        };
        Some(if load(other) < load(one) { other } else { one })
    }

    fn in_turn<'a>(
        &self,
        candidates: &'a [Candidate],
        fits: impl Fn(&&Candidate) -> bool,
        settings: &Settings,
    ) -> Option<&'a Candidate> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let start = turn as usize % candidates.len().max(1);
        let from_start = || candidates[start..].iter().chain(&candidates[..start]);
        // One that came back is passed over in a part of its turns.
        let round = (turn / candidates.len().max(1) as u64 % 10) as f64 / 10.0;
        from_start()
            .filter(|one| fits(one))
            .find(|one| one.upstream.health.ramp(settings) > round)
            .or_else(|| from_start().find(|one| fits(one)))
    }

    fn fraction(&self) -> f64 {
        // 53 bits fit a double exactly.
        (self.random() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Evenly spread numbers: a counter through the SplitMix64 finaliser, so that threads share
    /// one cheap source.
    fn random(&self) -> u64 {
        let mut bits = self
            .turn
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

pub(super) fn is_usable(candidate: &Candidate, ask: &Ask<'_>) -> bool {
    candidate.weight > 0.0
        && candidate.upstream.is_usable()
        && !ask
            .tried
            .iter()
            .any(|upstream| Arc::ptr_eq(upstream, &candidate.upstream))
}

/// The ketama ring of a set's candidates.
struct Ring(Arc<KetamaHashing>);

impl Ring {
    fn new(candidates: &[Candidate]) -> Self {
        let heaviest = candidates.iter().map(|one| one.weight).fold(0.0, f64::max);
        let mut nodes = BTreeSet::new();
        for (index, candidate) in candidates.iter().enumerate() {
            if candidate.weight <= 0.0 {
                continue;
            }
            let mut node = RingNode {
                addr: ring_address(&candidate.upstream.label).into(),
                weight: (candidate.weight / heaviest * RING_WEIGHT).ceil() as usize,
                ext: Default::default(),
            };
            node.ext.insert(index);
            nodes.insert(node);
        }
        Self(Arc::new(KetamaHashing::build(&nodes)))
    }

    /// The first that fits from the key's place on. Places repeat, so the walk is bounded.
    fn find<'a>(
        &self,
        key: &[u8],
        candidates: &'a [Candidate],
        fits: impl Fn(&&Candidate) -> bool,
    ) -> Option<&'a Candidate> {
        let mut walk = self.0.iter(key);
        for _ in 0..candidates.len() * 20 {
            let index = *walk.next()?.ext.get::<usize>()?;
            if let Some(candidate) = candidates.get(index).filter(|one| fits(one)) {
                return Some(candidate);
            }
        }
        candidates.iter().find(|one| fits(one))
    }
}

/// The ring places nodes by address alone, and an upstream may have none yet: one is made of its
/// name. All workers make the same.
fn ring_address(label: &str) -> SocketAddr {
    if let Ok(address) = label.parse() {
        return address;
    }
    let digest = Sha256::digest(label.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(bytes)), 0)
}
