//! Tells the coordinator which routes are out of service: when one goes or comes back, and every
//! ten seconds, so that silence can be told from health. Only a coordinator that numbers its
//! changes is told: a Python coordinator has no such call.

use std::sync::Arc;
use std::time::Duration;

use patchbay_common::route_report::{CircuitReport, DownRoute, MOST_ROUTES, RouteReport};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::backoff::Outage;
use super::client::Coordinator;
use super::status::Status;
use crate::table::{LiveCircuit, Table};

/// Between reports while nothing changes.
const PERIOD: Duration = Duration::from_secs(10);
/// Between reports while much changes.
const LEAST: Duration = Duration::from_millis(500);

/// What the reports are made of.
#[derive(Debug)]
pub struct RouteReporter {
    /// Who is told.
    pub coordinator: Coordinator,
    /// The circuits.
    pub table: Arc<Table>,
    /// Turns over when a route goes or comes back.
    pub changes: watch::Receiver<u64>,
    /// Whether there is a coordinator to be told.
    pub status: watch::Receiver<Status>,
}

impl RouteReporter {
    /// Reports until the task is dropped.
    pub async fn run(mut self) {
        let mut outage = Outage::new("the report of routes");
        let known = |status: &Status| status.worker.is_some() && status.generation.is_some();
        if self.status.wait_for(known).await.is_err() {
            // The link is gone, and with it whoever would be told.
            return;
        }
        loop {
            let begun = Instant::now();
            self.report(&mut outage).await;
            tokio::select! {
                () = sleep_until(begun + PERIOD) => {}
                changed = self.changes.changed() => match changed {
                    Ok(()) => sleep_until(begun + LEAST).await,
                    // Nobody watches over the routes any more: the period is left.
                    Err(_) => sleep_until(begun + PERIOD).await,
                },
            }
        }
    }

    async fn report(&mut self, outage: &mut Outage) {
        let worker = {
            let status = self.status.borrow();
            status.worker.filter(|_| status.generation.is_some())
        };
        let Some(worker) = worker else { return };
        self.changes.mark_unchanged();
        let report = report(&self.table);
        match self.coordinator.report_routes(worker, &report).await {
            Ok(()) => outage.over(),
            Err(cause) => outage.failed(&cause),
        }
    }
}

/// The routes out of service at this moment.
fn report(table: &Table) -> RouteReport {
    let mut report = RouteReport::default();
    let mut count = 0;
    for circuit in table.all() {
        // Nearly all circuits are well, and cost no more than this look.
        if circuit
            .upstreams
            .all()
            .all(|upstream| upstream.health.is_up())
        {
            continue;
        }
        if count >= MOST_ROUTES {
            report.truncated = true;
            break;
        }
        let told = describe(&circuit);
        count += told.down.len();
        report.circuits.push(told);
    }
    report.bounded()
}

fn describe(circuit: &LiveCircuit) -> CircuitReport {
    let states = circuit.upstreams.states();
    CircuitReport {
        circuit: circuit.circuit.id,
        routes: u32::try_from(states.len()).unwrap_or(u32::MAX),
        down: states
            .into_iter()
            .filter(|state| !state.healthy)
            .map(|state| DownRoute {
                route: state.route,
                session: state.session,
                address: state.address,
                since: state.since.into(),
                error: state.last_fault.map(|fault| fault.to_string()),
            })
            .collect(),
    }
}
