//! How routes are, as the nodes of their workers say.
//!
//! Nodes name only what is out of service; a route that no reporting node names is in service. A
//! worker that is lost, or none of whose nodes has spoken lately (the incumbent's never do), leaves
//! its routes unknown. Reports are kept in the store, so that all coordinators answer alike.

use std::collections::{HashMap, HashSet};

use chrono::{TimeDelta, Utc};
use patchbay_common::circuit::Circuit;
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::route::Route;
use patchbay_common::route_report::DownRoute;
use patchbay_common::worker::{Worker, WorkerStatus};
use serde::Serialize;

use crate::store::{Figures, NodeReport, Store, StoreError};

/// A report older than this says nothing any more; nodes speak every ten seconds.
const FRESH: TimeDelta = TimeDelta::seconds(45);

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// In service everywhere.
    Healthy,
    /// In service in part: on some nodes, or by some routes.
    Degraded,
    /// Out of service.
    Unhealthy,
    /// Nobody says.
    Unknown,
}

/// How a route is on one node.
#[derive(Clone, Debug, PartialEq)]
pub struct OnNode<'a> {
    /// The node's report.
    pub report: &'a NodeReport,
    /// What it says of the route, if that is out of service.
    pub down: Option<&'a DownRoute>,
}

/// How a route is.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteCondition<'a> {
    /// The route.
    pub route: &'a Route,
    /// How it is.
    pub condition: Condition,
    /// What each reporting node says.
    pub nodes: Vec<OnNode<'a>>,
}

/// Circuits by their condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// All.
    pub total: u64,
    /// In service.
    pub healthy: u64,
    /// In service in part.
    pub degraded: u64,
    /// Out of service.
    pub unhealthy: u64,
    /// On workers of which nobody says anything.
    pub unknown: u64,
}

/// What is known at one moment.
#[derive(Debug)]
pub struct Picture {
    workers: HashMap<WorkerId, Worker>,
    reports: HashMap<WorkerId, Vec<NodeReport>>,
}

impl Picture {
    /// What is known now.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn take(store: &dyn Store) -> Result<Self, StoreError> {
        let workers = store.workers().await?;
        let reports = store.reports(Utc::now() - FRESH).await?;
        Ok(Self::new(workers, reports))
    }

    fn new(workers: Vec<Worker>, fresh: Vec<NodeReport>) -> Self {
        let workers: HashMap<WorkerId, Worker> = workers
            .into_iter()
            .map(|worker| (worker.id, worker))
            .collect();
        let mut reports: HashMap<WorkerId, Vec<NodeReport>> = HashMap::new();
        for report in fresh {
            let alive = workers.get(&report.worker);
            if alive.is_some_and(|worker| worker.status == WorkerStatus::Alive) {
                reports.entry(report.worker).or_default().push(report);
            }
        }
        Self { workers, reports }
    }

    /// The worker of this key.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// Workers alive, workers lost, and workers of which a node reports.
    pub fn workers(&self) -> (usize, usize, usize) {
        let alive = |worker: &&Worker| worker.status == WorkerStatus::Alive;
        let alive = self.workers.values().filter(alive).count();
        (alive, self.workers.len() - alive, self.reports.len())
    }

    /// How a circuit's routes are.
    pub fn routes<'a>(&'a self, circuit: &'a Circuit) -> Vec<RouteCondition<'a>> {
        let reports = self.reports_of(circuit.worker);
        let says = |report: &'a NodeReport, route: &Route| OnNode {
            down: said_of(report, circuit.id).find(|down| is_at(&down.address, route)),
            report,
        };
        circuit
            .route_info
            .iter()
            .map(|route| {
                let nodes: Vec<OnNode<'a>> = reports.iter().map(|r| says(r, route)).collect();
                let down = nodes.iter().filter(|node| node.down.is_some()).count();
                RouteCondition {
                    route,
                    condition: part(down, nodes.len()),
                    nodes,
                }
            })
            .collect()
    }

    fn reports_of(&self, worker: WorkerId) -> &[NodeReport] {
        self.reports
            .get(&worker)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// All circuits by their condition, and how many routes are out of service somewhere. What is
    /// well is counted, not listed: this looks at no circuit that nobody complains of.
    pub fn tally(&self, figures: &Figures) -> (Tally, u64) {
        let mut tally = Tally::default();
        for line in &figures.circuits {
            tally.total += line.count;
            if self.reports_of(line.worker).is_empty() {
                tally.unknown += line.count;
            }
        }
        let mut routes = 0;
        for reports in self.reports.values() {
            for (down, total) in complaints(reports).into_values() {
                routes += down.len() as u64;
                let everywhere = down
                    .values()
                    .filter(|&&nodes| nodes == reports.len())
                    .count();
                if everywhere > 0 && everywhere as u64 >= u64::from(total) {
                    tally.unhealthy += 1;
                } else {
                    tally.degraded += 1;
                }
            }
        }
        let unwell = tally.unknown + tally.degraded + tally.unhealthy;
        tally.healthy = tally.total.saturating_sub(unwell);
        (tally, routes)
    }
}

/// How something is of which `bad` of `all` parts are out of service.
fn part(bad: usize, all: usize) -> Condition {
    match bad {
        _ if all == 0 => Condition::Unknown,
        0 => Condition::Healthy,
        bad if bad == all => Condition::Unhealthy,
        _ => Condition::Degraded,
    }
}

/// How a circuit with these routes is. One without routes has nothing that could be well or not.
pub fn overall(routes: &[RouteCondition<'_>]) -> Condition {
    let Some(first) = routes.first() else {
        return Condition::Unknown;
    };
    if routes
        .iter()
        .all(|route| route.condition == first.condition)
    {
        first.condition
    } else {
        Condition::Degraded
    }
}

fn said_of(report: &NodeReport, circuit: CircuitId) -> impl Iterator<Item = &DownRoute> {
    let told = report.report.circuits.iter();
    told.filter(move |told| told.circuit == circuit)
        .flat_map(|told| &told.down)
}

fn is_at(address: &str, route: &Route) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    host == route.host() && port.parse() == Ok(route.kernel_port)
}

/// A worker's circuits that a node complains of: the addresses out of service with the number of
/// nodes that say so, and how many routes the circuit has.
fn complaints(reports: &[NodeReport]) -> HashMap<CircuitId, (HashMap<&str, usize>, u32)> {
    let mut found: HashMap<CircuitId, (HashMap<&str, usize>, u32)> = HashMap::new();
    for report in reports {
        for told in &report.report.circuits {
            let (down, total) = found.entry(told.circuit).or_default();
            *total = (*total).max(told.routes);
            let addresses: HashSet<&str> = told.down.iter().map(|d| d.address.as_str()).collect();
            for address in addresses {
                *down.entry(address).or_default() += 1;
            }
        }
    }
    found.retain(|_, (down, _)| !down.is_empty());
    found
}

#[cfg(test)]
#[path = "condition/tests.rs"]
mod tests;
