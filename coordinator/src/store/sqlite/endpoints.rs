//! Endpoints in SQLite. Statements run in this process, so one a row costs no round trip.

use std::collections::{HashMap, HashSet};

use patchbay_common::circuit::Circuit;
use patchbay_common::event::Change;
use patchbay_common::id::{CircuitId, EndpointId};
use patchbay_common::subdomain;
use patchbay_common::timestamp;
use rusqlite::{OptionalExtension as _, Transaction, params};
use serde_json::json;

use super::rows::micros;
use super::{audit, circuits, events, workers};
use crate::store::audit::Record;
use crate::store::error::Doing;
use crate::store::{
    Action, Cause, Closed, HealthCheck, NewCircuit, NewEndpoint, Opened, Rerouted, Rerouting,
    Result, RouteChange, SlotWish, StoreError, endpoint, stored,
};

const KEEPING: &str = "keeping endpoints";

/// Keeps endpoints and opens the circuits that are missing.
pub(super) fn open(tx: &Transaction<'_>, endpoints: &[NewEndpoint]) -> Result<Vec<Option<Opened>>> {
    let ids: Vec<EndpointId> = endpoints.iter().map(|endpoint| endpoint.id).collect();
    let mut held: HashMap<EndpointId, Circuit> = HashMap::new();
    for circuit in circuits_of(tx, &ids)? {
        if let Some(endpoint) = circuit.endpoint_id {
            held.entry(endpoint).or_insert(circuit);
        }
    }
    endpoints
        .iter()
        .map(|endpoint| {
            let rechecked = keep(tx, endpoint)?;
            match (held.remove(&endpoint.id), &endpoint.circuit) {
                (Some(mut circuit), _) => {
                    circuit.health_check.clone_from(&endpoint.health_check);
                    if rechecked {
                        tell(tx, endpoint.id)?;
                    }
                    found(tx, circuit).map(Some)
                }
                (None, Some(new)) => open_one(tx, new).map(Some),
                (None, None) => Ok(None),
            }
        })
        .collect()
}

/// Writes an endpoint's row; true if it was there and is to be checked in another way from now on.
fn keep(tx: &Transaction<'_>, endpoint: &NewEndpoint) -> Result<bool> {
    let check = endpoint.health_check.as_ref();
    let rechecked = differs(tx, endpoint.id, check)?;
    tx.prepare_cached(
        "INSERT INTO endpoints (id, health_check_enabled, health_check_config, created_at, \
         updated_at) VALUES (?1, ?2, ?3, ?4, ?4) ON CONFLICT (id) DO UPDATE SET \
         health_check_enabled = excluded.health_check_enabled, \
         health_check_config = excluded.health_check_config, updated_at = excluded.updated_at",
    )
    .and_then(|mut statement| {
        statement.execute(params![
            endpoint.id.to_string(),
            check.is_some(),
            stored::health_check(check).map_err(unwritable)?.to_string(),
            micros(timestamp::now()),
        ])
    })
    .doing(KEEPING)?;
    Ok(rechecked)
}

/// Whether the endpoint is there with another check.
fn differs(tx: &Transaction<'_>, id: EndpointId, check: Option<&HealthCheck>) -> Result<bool> {
    let config = stored::health_check(check)?.to_string();
    tx.query_row(
        "SELECT count(*) FROM endpoints WHERE id = ?1 AND health_check_config IS NOT ?2",
        params![id.to_string(), config],
        |row| row.get::<_, i64>(0),
    )
    .map(|count| count > 0)
    .doing(KEEPING)
}

/// How an endpoint's routes are checked.
pub(super) fn check_of(tx: &Transaction<'_>, id: EndpointId) -> Result<Option<HealthCheck>> {
    let text: Option<Option<String>> = tx
        .query_row(
            "SELECT health_check_config FROM endpoints WHERE id = ?1",
            [id.to_string()],
            |row| row.get(0),
        )
        .optional()
        .doing(KEEPING)?;
    let config = text
        .flatten()
        .and_then(|text| serde_json::from_str(&text).ok());
    Ok(config.and_then(stored::readable_health_check))
}

/// Logs for the endpoint's worker how its routes are checked now. The outbox sends it.
fn tell(tx: &Transaction<'_>, id: EndpointId) -> Result<()> {
    for circuit in circuits_of(tx, &[id])? {
        let (id, routes) = (circuit.worker, circuit.route_info.clone());
        let worker = workers::get(tx, id)?.ok_or(StoreError::NoSuchWorker(id))?;
        let change = Change::RouteUpdated(Box::new(circuit), routes);
        events::log(tx, id, &worker.authority, change, None)?;
    }
    Ok(())
}

fn unwritable(error: StoreError) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

fn found(tx: &Transaction<'_>, circuit: Circuit) -> Result<Opened> {
    let id = circuit.worker;
    let worker = workers::get(tx, id)?.ok_or(StoreError::NoSuchWorker(id))?;
    let generation = events::generation(tx, id)?;
    Ok(Opened {
        circuit,
        worker,
        generation,
        reused: true,
    })
}

/// Opens a circuit; a taken subdomain gives way to one made from it.
fn open_one(tx: &Transaction<'_>, new: &NewCircuit) -> Result<Opened> {
    match circuits::open(tx, new) {
        Err(StoreError::SubdomainTaken { subdomain }) => open_one(
            tx,
            &NewCircuit {
                slot: SlotWish::Subdomain(subdomain::alternative(&subdomain)),
                ..new.clone()
            },
        ),
        outcome => outcome,
    }
}

/// The circuits of these endpoints, oldest first.
pub(super) fn circuits_of(tx: &Transaction<'_>, ids: &[EndpointId]) -> Result<Vec<Circuit>> {
    let wanted = "c.endpoint_id IN (SELECT value FROM json_each(?1))";
    circuits::select(tx, wanted, &json!(ids).to_string())
}

/// How an endpoint's routes are to be probed.
pub(super) fn set_health_check(
    tx: &Transaction<'_>,
    id: EndpointId,
    check: Option<&HealthCheck>,
) -> Result<bool> {
    let config = stored::health_check(check)?.to_string();
    let rechecked = differs(tx, id, check)?;
    let rows = tx
        .execute(
            "UPDATE endpoints SET health_check_enabled = ?2, health_check_config = ?3, \
         updated_at = ?4 WHERE id = ?1",
            params![
                id.to_string(),
                check.is_some(),
                config,
                micros(timestamp::now())
            ],
        )
        .doing("keeping a health check")?;
    if rechecked {
        tell(tx, id)?;
    }
    Ok(rows > 0)
}

/// Forgets endpoints and closes their circuits.
pub(super) fn delete(
    tx: &Transaction<'_>,
    ids: &[EndpointId],
    cause: &Cause,
) -> Result<Vec<Closed>> {
    tx.execute(
        "DELETE FROM endpoints WHERE id IN (SELECT value FROM json_each(?1))",
        [json!(ids).to_string()],
    )
    .doing("deleting endpoints")?;
    // Not by reading the circuits: one that cannot be read is closed all the same.
    let found: HashSet<String> = tx
        .prepare_cached(
            "SELECT id FROM circuits WHERE endpoint_id IN (SELECT value FROM json_each(?1))",
        )
        .and_then(|mut statement| {
            let rows = statement.query_map([json!(ids).to_string()], |row| row.get(0))?;
            rows.collect()
        })
        .doing("deleting endpoints")?;
    let circuits: Vec<CircuitId> = found.iter().filter_map(|id| id.parse().ok()).collect();
    circuits::close_all(tx, &circuits, cause)
}

/// Changes routes.
pub(super) fn change_routes(
    tx: &Transaction<'_>,
    changes: &[(EndpointId, RouteChange)],
    cause: &Cause,
) -> Result<Rerouting> {
    const DOING: &str = "changing routes";
    let ids: Vec<EndpointId> = changes.iter().map(|(id, _)| *id).collect();
    let (outcomes, touched) = endpoint::apply(circuits_of(tx, &ids)?, changes, timestamp::now());
    let mut circuits = Vec::with_capacity(touched.len());
    for circuit in touched {
        let routes = stored::route_info(&circuit)?.to_string();
        tx.prepare_cached("UPDATE circuits SET route_info = ?2, updated_at = ?3 WHERE id = ?1")
            .and_then(|mut statement| {
                let updated_at = micros(circuit.updated_at);
                statement.execute(params![circuit.id.to_string(), routes, updated_at])
            })
            .doing(DOING)?;
        let id = circuit.worker;
        let worker = workers::get(tx, id)?.ok_or(StoreError::NoSuchWorker(id))?;
        let record = Record::new(Action::Rerouted, &circuit, &worker.authority);
        audit::write(tx, &record, cause)?;
        let request_id = cause.request_id.as_deref();
        let change = Change::RouteUpdated(Box::new(circuit.clone()), circuit.route_info.clone());
        let generation = events::log(tx, id, &worker.authority, change, request_id)?;
        circuits.push(Rerouted {
            circuit,
            authority: worker.authority,
            generation,
        });
    }
    Ok(Rerouting { outcomes, circuits })
}
