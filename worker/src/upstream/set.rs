//! A circuit's upstreams, and the one a request gets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use patchbay_common::id::{RouteId, SessionId};
use patchbay_common::route::Route;
use patchbay_common::tunnel::TunnelId;
use tokio::time::{Instant, timeout};

use super::address::{Address, TUNNEL};
use super::choice::{Chooser, Chosen, is_usable};
use super::queue::Room;
use super::{Breaker, Check, Health, Outcome, RetryBudget, RouteState, Settings};

/// How long an upstream that never took a connection is believed to be starting.
const STARTING: Duration = Duration::from_secs(600);

/// One kernel address. Its health outlives changes to the circuit's routes.
#[derive(Debug)]
pub struct Upstream {
    /// `host:port`, for logs.
    pub label: Arc<str>,
    /// What is known of it.
    pub health: Health,
    host: String,
    port: u16,
    address: Address,
    made: Instant,
    check: ArcSwapOption<Check>,
    /// Whether the prober has it on its list.
    pub(super) on_agenda: AtomicBool,
    outstanding: AtomicUsize,
    /// Those of them that have a connection for themselves, for as long as they like.
    streams: AtomicUsize,
    breaker: Option<Arc<dyn Breaker>>,
    room: Arc<Room>,
}

impl Upstream {
    fn new(backend: &Backend, room: &Arc<Room>) -> Self {
        let Backend { host, port, .. } = backend;
        Self {
            label: format!("{host}:{port}").into(),
            health: Health::default(),
            address: Address::new(host, *port),
            host: host.clone(),
            port: *port,
            made: Instant::now(),
            check: ArcSwapOption::empty(),
            on_agenda: AtomicBool::new(false),
            outstanding: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            breaker: backend.breaker.clone(),
            room: Arc::clone(room),
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

    /// What it is told to be the host, where that is its own: its address, or its tunnel's name.
    pub fn host_for_app(&self) -> &str {
        self.tunnel().map_or(&self.label, TunnelId::as_str)
    }

    /// Whether it is never put out of service: a tunnel by itself (port 0, which no kernel has) is
    /// there as soon as its agent is, and costs little to ask.
    pub(super) fn is_steady(&self) -> bool {
        self.port == 0 && self.tunnel().is_some()
    }

    /// Requests and streams under way.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Connections that carry requests; a stream has left them.
    fn connections(&self) -> usize {
        let streams = self.streams.load(Ordering::Relaxed);
        self.outstanding().saturating_sub(streams)
    }

    /// Tells its breaker how a request went.
    pub fn ended(&self, outcome: Outcome) {
        if let Some(breaker) = &self.breaker {
            breaker.ended(outcome);
        }
    }

    /// After a fault: look the name up again.
    pub(super) fn forget_address(&self) {
        self.address.forget();
    }

    /// How it is checked while it is in service.
    pub(super) fn check(&self) -> Option<Arc<Check>> {
        self.check.load_full()
    }

    pub(super) fn is_younger_than(&self, age: Duration) -> bool {
        self.made.elapsed() < age
    }

    /// In service, and not held back by its breaker.
    pub(super) fn is_usable(&self) -> bool {
        self.health.is_up() && self.breaker.as_ref().is_none_or(|breaker| breaker.admits())
    }
}

/// One address as the owner of a set names it.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Share of the requests relative to the others; what is not positive gets none.
    pub weight: f64,
    /// The session that its traffic counts for.
    pub session: SessionId,
    /// The Manager's name for it.
    pub route: Option<RouteId>,
    /// Has a say in whether it may be used.
    pub breaker: Option<Arc<dyn Breaker>>,
}

impl From<&Route> for Backend {
    fn from(route: &Route) -> Self {
        Self {
            host: route.host().to_owned(),
            port: route.kernel_port,
            weight: route.traffic_ratio,
            session: route.session_id,
            route: route.route_id,
            breaker: None,
        }
    }
}

/// A backend as the choice sees it.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) upstream: Arc<Upstream>,
    pub(super) weight: f64,
    session: SessionId,
    route: Option<RouteId>,
}

/// A circuit's upstreams.
#[derive(Debug, Default)]
pub struct UpstreamSet {
    candidates: Box<[Candidate]>,
    chooser: Chooser,
    settings: Arc<Settings>,
    room: Arc<Room>,
    budget: Arc<RetryBudget>,
}

/// The choice for one attempt. The upstream counts it as under way until this is dropped.
#[derive(Debug)]
pub struct Picked {
    /// Where to dial.
    pub upstream: Arc<Upstream>,
    /// The session that the traffic counts for.
    pub session: SessionId,
    /// Why it was this one.
    pub why: &'static str,
    streams: bool,
}

impl Picked {
    /// It has become a stream that may last: its connection is not one of those that requests
    /// wait for.
    pub fn streams(&mut self) {
        if !std::mem::replace(&mut self.streams, true) {
            self.upstream.streams.fetch_add(1, Ordering::Relaxed);
            self.upstream.room.freed();
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        if self.streams {
            self.upstream.streams.fetch_sub(1, Ordering::Relaxed);
        }
        self.upstream.outstanding.fetch_sub(1, Ordering::Relaxed);
        self.upstream.room.freed();
    }
}

/// What the choice may know of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Upstreams that failed for it.
    pub tried: &'a [Arc<Upstream>],
    /// What stays the same for the same client ([`super::Policy::ConsistentHash`] only).
    pub key: &'a [u8],
    /// The one to be taken if it can be, whatever the policy says (sticky sessions).
    pub prefer: Option<&'a Arc<Upstream>>,
    /// It will be a stream ([`Picked::streams`]).
    pub streams: bool,
}

/// Why there is no upstream for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// None is in service.
    #[error("no upstream is in service")]
    NoneInService,
    /// All have as much to do as they may, and too many requests wait already.
    #[error("all upstreams are at their limit and the queue is full")]
    QueueFull,
    /// All have as much to do as they may, and none had room in time.
    #[error("all upstreams are at their limit (queue time-out)")]
    QueueTimeout,
}

impl UpstreamSet {
    /// The set of these backends, each checked by `check`. Addresses that were in `previous` keep
    /// their health and their count.
    pub fn new(
        backends: &[Backend],
        check: Option<Check>,
        settings: &Arc<Settings>,
        previous: Option<&Self>,
    ) -> Self {
        let room = previous.map(|set| Arc::clone(&set.room));
        let room = room.unwrap_or_default();
        let check = check.or_else(|| {
            (!settings.tcp_check_interval.is_zero()).then_some(Check::Tcp {
                interval: settings.tcp_check_interval,
                patience: settings.probe_timeout,
            })
        });
        let check = check.map(Arc::new);
        let candidates: Box<[Candidate]> = backends
            .iter()
            .map(|backend| {
                let known = previous.and_then(|set| set.find(backend));
                let upstream = known.unwrap_or_else(|| Arc::new(Upstream::new(backend, &room)));
                upstream.check.store(check.clone());
                Candidate {
                    upstream,
                    session: backend.session,
                    route: backend.route,
                    weight: if backend.weight.is_finite() {
                        backend.weight.max(0.0)
                    } else {
                        0.0
                    },
                }
            })
            .collect();
        Self {
            chooser: Chooser::new(&candidates, settings.policy),
            candidates,
            settings: Arc::clone(settings),
            room,
            budget: previous.map_or_else(Arc::default, |set| Arc::clone(&set.budget)),
        }
    }

    /// The set of one tunnel alone.
    pub fn of_tunnel(id: &TunnelId) -> Self {
        let backend = Backend {
            host: format!("{TUNNEL}{id}"),
            port: 0,
            weight: 1.0,
            session: SessionId::random(),
            route: None,
            breaker: None,
        };
        Self::new(&[backend], None, &Arc::default(), None)
    }

    /// The set of these routes, by the default rules and without a check.
    pub fn of_routes(routes: &[Route]) -> Self {
        let backends: Vec<Backend> = routes.iter().map(Backend::from).collect();
        Self::new(&backends, None, &Arc::default(), None)
    }

    fn find(&self, backend: &Backend) -> Option<Arc<Upstream>> {
        self.all()
            .find(|upstream| upstream.host == backend.host && upstream.port == backend.port)
            .cloned()
    }

    /// An upstream that is in service and has room, passing over those already tried; `None` if
    /// there is none at the moment.
    pub fn pick(&self, tried: &[Arc<Upstream>]) -> Option<Picked> {
        self.choose(&Ask {
            tried,
            ..Ask::default()
        })
        .ok()
    }

    /// As [`UpstreamSet::pick`], but waits in line where all have as much to do as they may.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn acquire(&self, ask: &Ask<'_>) -> Result<Picked, Unavailable> {
        match self.choose(ask) {
            Ok(picked) => Ok(picked),
            Err(NotNow::NoneInService) => Err(Unavailable::NoneInService),
            Err(NotNow::Full) => self.queue(ask).await,
        }
    }

    async fn queue(&self, ask: &Ask<'_>) -> Result<Picked, Unavailable> {
        let Some(place) = self.room.enter(self.settings.queue_length) else {
            return Err(Unavailable::QueueFull);
        };
        let wait = async {
            loop {
                let room = place.room();
                match self.choose(ask) {
                    Ok(picked) => return Ok(picked),
                    Err(NotNow::NoneInService) => return Err(Unavailable::NoneInService),
                    Err(NotNow::Full) => room.await,
                }
            }
        };
        timeout(self.settings.queue_timeout, wait)
            .await
            .unwrap_or(Err(Unavailable::QueueTimeout))
    }

    fn choose(&self, ask: &Ask<'_>) -> Result<Picked, NotNow> {
        // A candidate may fill up between the look and the grasp: look again, but not for ever.
        for _ in 0..=self.candidates.len() {
            let chosen = match self.preferred(ask) {
                Some(candidate) => Chosen::One(candidate),
                None => self.chooser.choose(&self.candidates, ask, &self.settings),
            };
            let candidate = match chosen {
                Chosen::One(candidate) => candidate,
                Chosen::AllFull => return Err(NotNow::Full),
                Chosen::NoneInService => return Err(NotNow::NoneInService),
            };
            if let Some(picked) = candidate.hold(&self.settings, ask.streams, self.chooser.reason())
            {
                if ask.tried.is_empty() && self.candidates.len() > 1 {
                    self.budget.deposit(self.settings.retry_ratio);
                }
                return Ok(picked);
            }
        }
        Err(NotNow::Full)
    }

    fn preferred(&self, ask: &Ask<'_>) -> Option<&Candidate> {
        let wanted = ask.prefer?;
        let mut candidates = self.candidates.iter();
        let found = candidates.find(|one| Arc::ptr_eq(&one.upstream, wanted))?;
        let full = found.is_full(&self.settings, ask);
        (is_usable(found, ask) && !full).then_some(found)
    }

    /// Whether a request that failed at those may be tried at another; takes it out of the
    /// account of retries if so.
    pub fn grants_retry(&self, tried: &[Arc<Upstream>]) -> bool {
        let ask = Ask {
            tried,
            ..Ask::default()
        };
        let chosen = self.chooser.choose(&self.candidates, &ask, &self.settings);
        matches!(chosen, Chosen::One(_)) && self.budget.withdraw()
    }

    /// All upstreams.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.candidates.iter().map(|candidate| &candidate.upstream)
    }

    /// Whether none has ever been connected to, and one is young enough to be on its way.
    pub fn is_starting(&self) -> bool {
        !self.all().any(|upstream| upstream.health.was_reached())
            && self
                .all()
                .any(|upstream| upstream.is_younger_than(STARTING))
    }

    /// Requests that wait for room.
    pub fn waiting(&self) -> usize {
        self.room.waiting()
    }

    /// How its routes stand.
    pub fn states(&self) -> Vec<RouteState> {
        let state = |candidate: &Candidate| {
            let health = &candidate.upstream.health;
            RouteState {
                route: candidate.route,
                session: candidate.session,
                address: candidate.upstream.label.to_string(),
                healthy: health.is_up(),
                since: health.since(),
                last_fault: health.last_fault(),
                outstanding: candidate.upstream.outstanding(),
            }
        };
        self.candidates.iter().map(state).collect()
    }
}

/// Why no candidate was had at once.
enum NotNow {
    NoneInService,
    Full,
}

impl Candidate {
    /// Counts a request in, unless the upstream has as many as it may.
    fn hold(&self, settings: &Settings, streams: bool, why: &'static str) -> Option<Picked> {
        let upstream = Arc::clone(&self.upstream);
        let limit = settings.max_connections;
        let busy = limit != 0 && !streams && upstream.connections() >= limit;
        let before = upstream.outstanding.fetch_add(1, Ordering::Relaxed);
        let mut picked = Picked {
            upstream,
            session: self.session,
            why,
            streams: false,
        };
        if busy || settings.max_outstanding != 0 && before >= settings.max_outstanding {
            return None;
        }
        if streams {
            picked.streams();
        }
        if let Some(breaker) = &self.upstream.breaker {
            breaker.began();
        }
        Some(picked)
    }

    /// Whether it takes no more of this kind.
    pub(super) fn is_full(&self, settings: &Settings, ask: &Ask<'_>) -> bool {
        let (all, connections) = (settings.max_outstanding, settings.max_connections);
        all != 0 && self.upstream.outstanding() >= all
            || connections != 0 && !ask.streams && self.upstream.connections() >= connections
    }
}
