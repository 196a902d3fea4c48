//! Inference endpoints as the store keeps them, and what a change of their routes comes to.
//! Pure: both databases read, let this file decide, and write.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use patchbay_common::circuit::Circuit;
pub use patchbay_common::health_check::HealthCheck;
use patchbay_common::id::{EndpointId, RouteId};
use patchbay_common::route::Route;

use super::{NewCircuit, StoreError, fit};

/// An endpoint to be kept, and the circuit to open for it if it has none.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEndpoint {
    /// Its key.
    pub id: EndpointId,
    /// Replaces what was kept before; absent switches probing off.
    pub health_check: Option<HealthCheck>,
    /// Absent where the endpoint is believed to have a circuit. A subdomain is a preference here:
    /// where it is taken, one made from it is given.
    pub circuit: Option<NewCircuit>,
}

/// What is to become of an endpoint's routes.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteChange {
    /// These and no others.
    Replace(Vec<Route>),
    /// These beside the others; one that is there under its id gets the new address.
    Register(Vec<Route>),
    /// Without these.
    Unregister(Vec<RouteId>),
}

/// What a change of routes came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutesChanged {
    /// Ids that were added, altered or dropped.
    pub changed: Vec<RouteId>,
    /// Ids that were as wished before.
    pub unchanged: Vec<RouteId>,
}

/// Why an endpoint's routes were left as they were; the other endpoints of the call are not
/// concerned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoutesRefused {
    /// The endpoint has no circuit.
    #[error("No circuit registered for this endpoint yet.")]
    NoCircuit,
    /// A route cannot be stored.
    #[error("{0}")]
    Unfit(String),
}

/// One circuit with the routes it has now.
#[derive(Clone, Debug, PartialEq)]
pub struct Rerouted {
    /// The circuit.
    pub circuit: Circuit,
    /// Name of its worker.
    pub authority: String,
    /// The worker's generation after the change.
    pub generation: u64,
}

/// The answer to changes of routes.
#[derive(Clone, Debug, PartialEq)]
pub struct Rerouting {
    /// One for every change, in their order.
    pub outcomes: Vec<Result<RoutesChanged, RoutesRefused>>,
    /// The circuits that differ from before, in the order of their generations.
    pub circuits: Vec<Rerouted>,
}

/// Applies the changes, one after the other, to the circuits of the endpoints they name. The
/// second part of the answer are the circuits to be written.
pub(super) fn apply(
    circuits: Vec<Circuit>,
    changes: &[(EndpointId, RouteChange)],
    now: DateTime<Utc>,
) -> (Vec<Result<RoutesChanged, RoutesRefused>>, Vec<Circuit>) {
    let mut held: HashMap<EndpointId, (Circuit, bool)> = HashMap::new();
    for circuit in circuits {
        if let Some(endpoint) = circuit.endpoint_id {
            held.entry(endpoint).or_insert((circuit, false));
        }
    }
    let outcomes = changes
        .iter()
        .map(|(endpoint, change)| {
            refuse_unfit(change)?;
            let (circuit, touched) = held.get_mut(endpoint).ok_or(RoutesRefused::NoCircuit)?;
            let before = circuit.route_info.clone();
            let outcome = change.apply(&mut circuit.route_info);
            if circuit.route_info != before {
                circuit.updated_at = now;
                *touched = true;
            }
            Ok(outcome)
        })
        .collect();
    let mut touched: Vec<Circuit> = held
        .into_values()
        .filter_map(|(circuit, touched)| touched.then_some(circuit))
        .collect();
    // One order of workers for everybody: two changes at once must not wait for each other.
    touched.sort_by_key(|circuit| (circuit.worker, circuit.id));
    (outcomes, touched)
}

fn refuse_unfit(change: &RouteChange) -> Result<(), RoutesRefused> {
    match change {
        RouteChange::Replace(routes) | RouteChange::Register(routes) => {
            fit::routes(routes).map_err(|error: StoreError| RoutesRefused::Unfit(error.to_string()))
        }
        RouteChange::Unregister(_) => Ok(()),
    }
}

impl RouteChange {
    fn apply(&self, held: &mut Vec<Route>) -> RoutesChanged {
        match self {
            Self::Replace(routes) => {
                let (unchanged, changed) =
                    routes.iter().partition::<Vec<_>, _>(|r| held.contains(r));
                let outcome = RoutesChanged {
                    changed: ids(changed),
                    unchanged: ids(unchanged),
                };
                held.clone_from(routes);
                outcome
            }
            Self::Register(routes) => register(held, routes),
            Self::Unregister(dropped) => {
                let there: HashSet<RouteId> = held.iter().filter_map(|r| r.route_id).collect();
                let (changed, unchanged) = dropped.iter().partition(|id| there.contains(id));
                let dropped: HashSet<&RouteId> = dropped.iter().collect();
                held.retain(|route| !route.route_id.is_some_and(|id| dropped.contains(&id)));
                RoutesChanged { changed, unchanged }
            }
        }
    }
}

fn register(held: &mut Vec<Route>, routes: &[Route]) -> RoutesChanged {
    let mut places: HashMap<RouteId, usize> = held
        .iter()
        .enumerate()
        .filter_map(|(place, route)| Some((route.route_id?, place)))
        .collect();
    let mut outcome = RoutesChanged {
        changed: Vec::new(),
        unchanged: Vec::new(),
    };
    for route in routes {
        let known = route.route_id.and_then(|id| places.get(&id)).copied();
        let list = match known.and_then(|place| held.get_mut(place)) {
            Some(there) if there == route => &mut outcome.unchanged,
            Some(there) => {
                there.clone_from(route);
                &mut outcome.changed
            }
            None => {
                places.extend(route.route_id.map(|id| (id, held.len())));
                held.push(route.clone());
                &mut outcome.changed
            }
        };
        list.extend(route.route_id);
    }
    outcome
}

fn ids(routes: Vec<&Route>) -> Vec<RouteId> {
    routes
        .into_iter()
        .filter_map(|route| route.route_id)
        .collect()
}
