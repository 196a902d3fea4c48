//! The gateway: services reached by host and path, behind the same engines as circuits.
//!
//! `config` reads what the operator wants, `plan` makes of it what is at work, `router` finds the
//! route of a request and `chain` what it passes on its way. [`Gateway`] holds the plan in force
//! and puts another in its place as a whole; a request keeps the one it began with. `conduct` asks
//! it, `wiring` starts it. It refuses to know engines and circuits.

pub mod chain;
pub mod config;
pub mod plan;
pub mod refusal;
pub mod router;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::stage::Head;
use chain::Passage;
use config::GatewayConfig;
use plan::{LiveRoute, Plan};
use refusal::GatewayRefusal;
use router::{Segments, bare_host};

/// What the gateway does now.
#[derive(Debug)]
pub struct Gateway {
    at_work: ArcSwap<AtWork>,
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
}

impl Gateway {
    /// At work as configured.
    pub fn new(config: &GatewayConfig) -> Self {
        Self {
            at_work: ArcSwap::from_pointee(AtWork::build(config, None)),
        }
    }

    /// Puts another configuration in force, for requests that begin from now on. Needs a runtime.
    pub fn install(&self, config: &GatewayConfig) {
        let before = self.at_work.load();
        let next = AtWork::build(config, Some(&before.plan));
        next.plan.start();
        self.at_work.store(Arc::new(next));
    }

    /// Begins what goes on beside requests, on the current runtime.
    pub fn start(&self) {
        self.at_work.load().plan.start();
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

    /// How many routes and services there are.
    pub fn size(&self) -> (usize, usize) {
        let plan = &self.at_work.load().plan;
        (plan.routes().len(), plan.services().len())
    }
}

impl AtWork {
    /// The configuration was checked when it was read; what is flawed would be left out.
    fn build(config: &GatewayConfig, before: Option<&Plan>) -> Self {
        let (plan, flaws) = Plan::build(&config.sections, before);
        for (key, problem) in flaws {
            log::error!("gateway.{key}: {problem}");
        }
        Self {
            plan,
            timeout_status: config.timeout_status,
        }
    }
}
