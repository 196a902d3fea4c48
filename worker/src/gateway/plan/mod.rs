//! Everything the gateway does, built as a whole from what its sections and its discovery say,
//! and only read from then on. Services, rate limits and keys whose settings have not changed are
//! taken over from the plan before, with what they know. Mistakes are gathered with the key they
//! are at; what has one is left out of the plan, so that the rest of it could still be used.

mod middleware;
mod route;
mod service;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderName;

use super::chain::Stage;
use super::config::sections;
use super::router::{Router, Rule};
use crate::upstream::Prober;

pub use route::{Action, LiveRoute};
pub use service::{Ground, HashBy, LiveService};

/// A mistake: the key it is at, below `[gateway]`, and what is wrong.
pub type Flaw = (String, String);

/// The gateway at work.
#[derive(Debug, Default)]
pub struct Plan {
    router: Router,
    routes: Vec<Arc<LiveRoute>>,
    services: BTreeMap<String, Arc<LiveService>>,
    middleware: BTreeMap<String, (sections::Middleware, Stage)>,
}

impl Plan {
    /// Builds it; answers with every flaw there is.
    pub(crate) fn build(
        wanted: &sections::Gateway,
        ground: &Ground<'_>,
        before: Option<&Self>,
    ) -> (Self, Vec<Flaw>) {
        let mut flaws = Vec::new();
        let mut plan = Self::default();
        for (name, section) in &wanted.middleware {
            let known = before.and_then(|plan| plan.middleware.get(name));
            // The same file may hold another key now.
            let has_file = section
                .jwt
                .as_ref()
                .is_some_and(|jwt| jwt.public_key.is_some());
            let known = known.filter(|(settings, _)| settings == section && !has_file);
            let stage = match known {
                Some((_, stage)) => Some(stage.clone()),
                None => middleware::build(name, section, ground.ledger.as_ref(), &mut flaws),
            };
            if let Some(stage) = stage {
                plan.middleware
                    .insert(name.clone(), (section.clone(), stage));
            }
        }
        for (name, section) in &wanted.services {
            let known = before.and_then(|plan| plan.services.get(name));
            let service = service::build(name, section, ground, known, &mut flaws);
            plan.services.insert(name.clone(), service);
        }
        let before = before.map_or(&[][..], |plan| &plan.routes);
        plan.add_routes(wanted, before, &mut flaws);
        (plan, flaws)
    }

    fn add_routes(
        &mut self,
        wanted: &sections::Gateway,
        before: &[Arc<LiveRoute>],
        flaws: &mut Vec<Flaw>,
    ) {
        let parts = route::Parts {
            services: &self.services,
            middleware: &self.middleware,
            identity: self.identity_headers(),
            wanted,
            before,
        };
        let mut rules: Vec<Rule> = Vec::new();
        let mut routes = Vec::new();
        for (name, section) in &wanted.routes {
            if let Some((rule, route)) = route::build(name, section, &parts, flaws) {
                rules.push(rule);
                routes.push(Arc::new(route));
            }
        }
        match Router::build(&rules) {
            Ok(router) => {
                self.router = router;
                self.routes = routes;
            }
            Err(ties) => {
                for tie in ties {
                    // What was found gives way to what was said, that to what was written.
                    let who = |name| wanted.guests.routes.get(name);
                    let first_gives_way = who(&tie.first) > who(&tie.second);
                    let name = if first_gives_way {
                        &tie.first
                    } else {
                        &tie.second
                    };
                    flaws.push((format!("routes.{name}"), tie.to_string()));
                }
            }
        }
    }

    /// Every header by which a stage of this gateway says who asks. A client's own are taken out
    /// on all routes: a service may be reached by a route with the stage and by one without.
    fn identity_headers(&self) -> Arc<[HeaderName]> {
        let stages = self.middleware.values();
        let mut names: Vec<HeaderName> = stages
            .flat_map(|(_, stage)| stage.identity_headers())
            .collect();
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        names.into()
    }

    /// The routes.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The route with this index.
    pub fn route(&self, index: usize) -> Option<&Arc<LiveRoute>> {
        self.routes.get(index)
    }

    /// All routes.
    pub fn routes(&self) -> &[Arc<LiveRoute>] {
        &self.routes
    }

    /// All services, by name.
    pub fn services(&self) -> &BTreeMap<String, Arc<LiveService>> {
        &self.services
    }

    /// Begins what stages do beside requests, on the current runtime.
    pub fn start(&self, prober: &Prober) {
        for service in self.services.values() {
            prober.watch(&service.upstreams);
        }
        for (_, stage) in self.middleware.values() {
            stage.start();
        }
    }
}
