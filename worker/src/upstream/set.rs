//! A circuit's upstreams and the choice among them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use patchbay_common::circuit::Protocol;
use patchbay_common::id::SessionId;
use patchbay_common::route::Route;
use patchbay_common::tunnel::TunnelId;

use super::Health;
use super::address::{Address, TUNNEL};

/// One kernel address. Its health outlives changes to the circuit's routes.
#[derive(Debug)]
pub struct Upstream {
    /// `host:port`, for logs.
    pub label: String,
    /// What is known of it.
    pub health: Health,
    host: String,
    port: u16,
    address: Address,
}

impl Upstream {
    fn new(host: &str, port: u16) -> Self {
        Self {
            label: format!("{host}:{port}"),
            health: Health::default(),
            address: Address::new(host, port),
            host: host.to_owned(),
            port,
        }
    }

    /// The address to dial.
    ///
    /// # Errors
    /// If the host is a name that does not resolve.
    pub async fn address(&self) -> io::Result<SocketAddr> {
        self.address.resolve().await
    }

    /// The tunnel it is reached through, if it is lent by an agent.
    pub fn tunnel(&self) -> Option<&TunnelId> {
        self.address.tunnel()
    }

    /// After a fault: look the name up again.
    pub(super) fn forget_address(&self) {
        self.address.forget();
    }
}

/// A route as the choice sees it.
#[derive(Debug)]
struct Candidate {
    upstream: Arc<Upstream>,
    session: SessionId,
    weight: f64,
}

/// A circuit's upstreams.
#[derive(Debug, Default)]
pub struct UpstreamSet {
    candidates: Box<[Candidate]>,
    picks: AtomicU64,
}

/// The choice for one attempt.
#[derive(Clone, Debug)]
pub struct Picked {
    /// Where to dial.
    pub upstream: Arc<Upstream>,
    /// The session that the traffic counts for.
    pub session: SessionId,
}

impl UpstreamSet {
    /// The set for these routes; upstreams of the same address keep their health.
    pub fn new(routes: &[Route], previous: Option<&Self>) -> Self {
        let known = |host: &str, port: u16| {
            previous?
                .candidates
                .iter()
                .map(|candidate| &candidate.upstream)
                .find(|upstream| upstream.host == host && upstream.port == port)
                .cloned()
        };
        let candidates = routes
            .iter()
            .map(|route| Candidate {
                upstream: known(route.host(), route.kernel_port)
                    .unwrap_or_else(|| Arc::new(Upstream::new(route.host(), route.kernel_port))),
                session: route.session_id,
                weight: if route.traffic_ratio.is_finite() {
                    route.traffic_ratio.max(0.0)
                } else {
                    0.0
                },
            })
            .collect();
        Self {
            candidates,
            picks: AtomicU64::new(0),
        }
    }

    /// The set of one tunnel alone.
    pub fn of_tunnel(id: &TunnelId) -> Self {
        let route = Route {
            route_id: None,
            session_id: SessionId::random(),
            session_name: None,
            kernel_host: Some(format!("{TUNNEL}{id}")),
            kernel_port: 0,
            protocol: Protocol::Http,
            traffic_ratio: 1.0,
        };
        Self::new(&[route], None)
    }

    /// An upstream in service, by weight, passing over those already tried; `None` if there is
    /// none.
    pub fn pick(&self, tried: &[Arc<Upstream>]) -> Option<Picked> {
        if let [only] = &*self.candidates {
            return usable(only, tried).then(|| only.picked());
        }
        let usable = || self.candidates.iter().filter(|one| usable(one, tried));
        let total: f64 = usable().map(|one| one.weight).sum();
        let mut point = self.next_fraction() * total;
        let mut last = None;
        for candidate in usable() {
            last = Some(candidate);
            if point < candidate.weight {
                break;
            }
            point -= candidate.weight;
        }
        last.map(Candidate::picked)
    }

    /// All upstreams.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.candidates.iter().map(|candidate| &candidate.upstream)
    }

    /// Evenly spread numbers in `[0, 1)`: a counter through the SplitMix64 finaliser, so that
    /// threads share one cheap source.
    fn next_fraction(&self) -> f64 {
        let mut bits = self
            .picks
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // 53 bits fit a double exactly.
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn usable(candidate: &Candidate, tried: &[Arc<Upstream>]) -> bool {
    candidate.weight > 0.0
        && candidate.upstream.health.is_up()
        && !tried
            .iter()
            .any(|upstream| Arc::ptr_eq(upstream, &candidate.upstream))
}

impl Candidate {
    fn picked(&self) -> Picked {
        Picked {
            upstream: Arc::clone(&self.upstream),
            session: self.session,
        }
    }
}
