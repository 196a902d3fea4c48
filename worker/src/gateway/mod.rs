//! The gateway: services reached by host and path, behind the same engines as circuits.
//!
//! `config` reads what the operator wants, `plan` makes of it what is at work, `router` finds the
//! route of a request and `chain` what it passes on its way. [`Gateway`] holds the plan in force
//! and puts another in its place as a whole; a request keeps the one it began with. `conduct` asks
//! it, `wiring` starts it. It refuses to know engines and circuits.

pub mod breaker;
pub mod chain;
pub mod config;
pub mod counts;
mod discover;
pub mod encoder;
pub mod plan;
pub mod refusal;
pub mod router;
pub mod sticky;
#[cfg(test)]
pub(crate) mod trial;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use patchbay_common::gateway::Published;
use patchbay_discovery::Catalog;

use crate::stage::Head;
use crate::upstream::{Prober, Upstream};
use chain::{Ledger, Passage};
use config::GatewayConfig;
use discover::{Told, Watchers};
use plan::{Ground, HashBy, LiveRoute, LiveService, Plan};
use refusal::GatewayRefusal;
use router::{Segments, bare_host};

/// What the gateway does now.
#[derive(Debug)]
pub struct Gateway {
    at_work: ArcSwap<AtWork>,
    prober: Arc<Prober>,
    /// Signs sticky cookies where the operator has given no key.
    own_key: Vec<u8>,
    /// Where limits are shared.
    ledger: Option<Arc<dyn Ledger>>,
    wanted: Mutex<Wanted>,
    watchers: Watchers,
}

#[derive(Debug)]
struct AtWork {
    plan: Plan,
    timeout_status: u16,
}

/// What a plan is made from. Held locked while one is made, so that plans take their turns.
#[derive(Debug)]
struct Wanted {
    config: GatewayConfig,
    /// What was told beside it.
    told: Told,
    /// What was complained of, so that it is said once.
    complaints: BTreeSet<String>,
}

/// One request's way through the gateway.
#[derive(Debug)]
pub struct Visit {
    /// The route it takes.
    pub route: Arc<LiveRoute>,
    /// What its chain found out.
    pub passage: Passage,
    /// The instance its cookie names.
    pub preferred: Option<Arc<Upstream>>,
    /// What its client's requests have in common, where that is not their address.
    pub hash_key: Option<Vec<u8>>,
    /// How it went at the instance.
    pub leg: Leg,
}

/// A request's way to an instance and back; of several tried, the last one's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leg {
    /// When the instance was chosen.
    pub began: Option<Instant>,
    /// Its connection had carried requests before.
    pub reused: bool,
    /// The status it answered.
    pub status: Option<u16>,
    /// How long it took to.
    pub latency: Option<Duration>,
}

impl Leg {
    /// An instance is chosen.
    pub fn begin(&mut self, now: Instant) {
        *self = Self {
            began: Some(now),
            ..Self::default()
        };
    }

    /// It has answered.
    pub fn answered(&mut self, status: u16) {
        self.status = Some(status);
        self.latency = self.began.map(|began| began.elapsed());
    }
}

impl Visit {
    /// Begins at a route.
    pub fn new(route: Arc<LiveRoute>) -> Self {
        Self {
            route,
            passage: Passage::default(),
            preferred: None,
            hash_key: None,
            leg: Leg::default(),
        }
    }

    /// Looks at what the choice of an instance needs to know of a request.
    pub fn look(&mut self, head: &Head<'_>, service: &LiveService) {
        self.hash_key = match &service.hash_by {
            HashBy::Address => None,
            HashBy::Header(name) => Some(head.headers.get(name).unwrap_or_default().to_vec()),
            HashBy::Cookie(name) => {
                let value = chain::cookie(head, name).unwrap_or_default();
                Some(value.as_bytes().to_vec())
            }
        };
        self.preferred = service.sticky.as_ref().and_then(|sticky| {
            let value = chain::cookie(head, &sticky.cookie)?;
            sticky.instance(value).cloned()
        });
    }
}

impl Gateway {
    /// At work as configured; `prober` watches over the instances, `ledger` is where limits are
    /// shared with other workers.
    pub fn new(
        config: &GatewayConfig,
        prober: Arc<Prober>,
        ledger: Option<Arc<dyn Ledger>>,
    ) -> Arc<Self> {
        let own_key = uuid::Uuid::new_v4().into_bytes().to_vec();
        let mut wanted = Wanted {
            config: config.clone(),
            told: Told::default(),
            complaints: BTreeSet::new(),
        };
        let at_work = wanted.build(&own_key, &prober, ledger.as_ref(), None);
        Arc::new(Self {
            at_work: ArcSwap::from_pointee(at_work),
            prober,
            own_key,
            ledger,
            wanted: Mutex::new(wanted),
            watchers: Watchers::default(),
        })
    }

    /// Puts another configuration in force, for requests that begin from now on. Needs a runtime.
    pub fn install(self: &Arc<Self>, config: &GatewayConfig) {
        let mut wanted = self.lock();
        wanted.config = config.clone();
        for gone in self.watchers.watch(self, &config.sections.docker) {
            wanted.told.engines.remove(&gone);
        }
        self.rebuild(&mut wanted);
    }

    /// An engine's containers are these now.
    fn found(&self, engine: &str, catalog: Catalog) {
        let mut wanted = self.lock();
        if !wanted.config.sections.docker.contains_key(engine) {
            return;
        }
        wanted.told.engines.insert(engine.to_owned(), catalog);
        self.rebuild(&mut wanted);
        let (routes, services) = self.size();
        log::info!(
            "docker {engine}: containers have changed: {routes} routes, {services} services"
        );
    }

    /// The coordinator's services are these now.
    pub fn told(&self, services: Arc<[Published]>) {
        let mut wanted = self.lock();
        wanted.told.coordinator = services;
        self.rebuild(&mut wanted);
    }

    fn rebuild(&self, wanted: &mut Wanted) {
        let before = self.at_work.load();
        let ledger = self.ledger.as_ref();
        let next = wanted.build(&self.own_key, &self.prober, ledger, Some(&before.plan));
        next.plan.start(&self.prober);
        self.at_work.store(Arc::new(next));
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins what goes on beside requests, on the current runtime.
    pub fn start(self: &Arc<Self>) {
        let wanted = self.lock();
        self.at_work.load().plan.start(&self.prober);
        self.watchers.watch(self, &wanted.config.sections.docker);
    }

    /// The route of a request.
    ///
    /// # Errors
    /// [`GatewayRefusal::Path`], [`GatewayRefusal::NoRoute`].
    pub fn route(&self, head: &Head<'_>) -> Result<Arc<LiveRoute>, GatewayRefusal> {
        let at_work = self.at_work.load();
        let segments = Segments::of(head.path())?;
        let host = bare_host(head.host().unwrap_or_default());
        let index = at_work.plan.router().route(host, &segments, head);
        let route = index.and_then(|index| at_work.plan.route(index));
        route.cloned().ok_or(GatewayRefusal::NoRoute)
    }

    /// The status for a service that does not answer in time.
    pub fn timeout_status(&self) -> u16 {
        self.at_work.load().timeout_status
    }

    /// Appends what was counted, by route, to an exposition.
    pub fn append_counts(&self, text: &mut String) {
        let at_work = self.at_work.load();
        let routes = at_work.plan.routes().iter();
        let counted = routes.map(|route| (&*route.name, route.action.service(), &*route.counts));
        counts::append(text, counted);
        let services = at_work.plan.services().values();
        let breakers = services.flat_map(|service| {
            let own = service.breakers();
            own.map(|(instance, state)| (&*service.name, instance, state))
        });
        counts::append_breakers(text, breakers);
        counts::append_complaints(text, self.lock().complaints.len());
        let services = at_work.plan.services().values();
        let instances = services.flat_map(|service| {
            let states = service.upstreams.states().into_iter();
            states.map(|state| (&*service.name, state))
        });
        counts::append_instances(text, instances);
    }

    /// How many routes and services there are.
    pub fn size(&self) -> (usize, usize) {
        let plan = &self.at_work.load().plan;
        (plan.routes().len(), plan.services().len())
    }
}

impl Wanted {
    /// The configuration was checked when it was read; what is flawed all the same is left out.
    fn build(
        &mut self,
        own_key: &[u8],
        prober: &Prober,
        ledger: Option<&Arc<dyn Ledger>>,
        before: Option<&Plan>,
    ) -> AtWork {
        let config = &self.config;
        let given = config.sections.sticky_secret.as_ref();
        let ground = Ground {
            rules: prober.settings(),
            sticky_key: given.map_or(own_key, |secret| secret.expose().as_bytes()),
            tls: config.tls.is_some(),
            ledger: ledger.cloned(),
        };
        let mut complaints = BTreeSet::new();
        let mut complain = |text: String| {
            complaints.insert(text);
        };
        let mut sections = discover::merge(&config.sections, &self.told, &mut complain);
        let plan = loop {
            let (plan, flaws) = Plan::build(&sections, &ground, before);
            if discover::yield_to(&mut sections, &flaws, &mut complain) {
                continue;
            }
            for (key, problem) in flaws {
                complain(format!("gateway.{key}: {problem}"));
            }
            break plan;
        };
        for complaint in complaints.difference(&self.complaints) {
            log::error!("{complaint}");
        }
        self.complaints = complaints;
        AtWork {
            plan,
            timeout_status: config.timeout_status,
        }
    }
}
