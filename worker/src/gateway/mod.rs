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
pub mod plan;
pub mod refusal;
pub mod router;
pub mod sticky;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::stage::Head;
use crate::upstream::{Prober, Upstream};
use chain::Passage;
use config::GatewayConfig;
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
}

#[derive(Debug)]
struct AtWork {
    plan: Plan,
    timeout_status: u16,
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
}

impl Visit {
    /// Begins at a route.
    pub fn new(route: Arc<LiveRoute>) -> Self {
        Self {
            route,
            passage: Passage::default(),
            preferred: None,
            hash_key: None,
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
    /// At work as configured; `prober` watches over the instances.
    pub fn new(config: &GatewayConfig, prober: Arc<Prober>) -> Self {
        let own_key = uuid::Uuid::new_v4().into_bytes().to_vec();
        let at_work = AtWork::build(config, &own_key, &prober, None);
        Self {
            at_work: ArcSwap::from_pointee(at_work),
            prober,
            own_key,
        }
    }

    /// Puts another configuration in force, for requests that begin from now on. Needs a runtime.
    pub fn install(&self, config: &GatewayConfig) {
        let before = self.at_work.load();
        let next = AtWork::build(config, &self.own_key, &self.prober, Some(&before.plan));
        next.plan.start(&self.prober);
        self.at_work.store(Arc::new(next));
    }

    /// Begins what goes on beside requests, on the current runtime.
    pub fn start(&self) {
        self.at_work.load().plan.start(&self.prober);
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
    }

    /// How many routes and services there are.
    pub fn size(&self) -> (usize, usize) {
        let plan = &self.at_work.load().plan;
        (plan.routes().len(), plan.services().len())
    }
}

impl AtWork {
    /// The configuration was checked when it was read; what is flawed would be left out.
    fn build(
        config: &GatewayConfig,
        own_key: &[u8],
        prober: &Prober,
        before: Option<&Plan>,
    ) -> Self {
        let given = config.sections.sticky_secret.as_ref();
        let ground = Ground {
            rules: prober.settings(),
            sticky_key: given.map_or(own_key, |secret| secret.expose().as_bytes()),
            tls: config.tls.is_some(),
        };
        let (plan, flaws) = Plan::build(&config.sections, &ground, before);
        for (key, problem) in flaws {
            log::error!("gateway.{key}: {problem}");
        }
        Self {
            plan,
            timeout_status: config.timeout_status,
        }
    }
}
