//! Endpoints in PostgreSQL. Whatever the number of endpoints, the number of statements depends on
//! the number of workers only.
//!
//! Locks are taken in one order: endpoints, workers, circuits, generations, each by id.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use deadpool_postgres::{GenericClient, Transaction};
use patchbay_common::circuit::{Circuit, Slot};
use patchbay_common::event::Change;
use patchbay_common::id::{EndpointId, WorkerId};
use patchbay_common::timestamp;
use patchbay_common::worker::Worker;
use serde_json::{Value, json};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::allot::Allotment;
use super::{audit, circuits, events, workers};
use crate::store::audit::Record;
use crate::store::error::Doing;
use crate::store::stored;
use crate::store::{
    Action, Cause, Closed, HealthCheck, NewCircuit, NewEndpoint, Opened, Rerouted, Rerouting,
    Result, RouteChange, SlotWish, StoreError, endpoint,
};

const OPENING: &str = "opening circuits of endpoints";
const ROUTING: &str = "changing routes";

/// Keeps endpoints and opens the circuits that are missing.
pub(super) async fn open(
    tx: &Transaction<'_>,
    endpoints: &[NewEndpoint],
) -> Result<Vec<Option<Opened>>> {
    let rechecked = keep(tx, endpoints).await?;
    let checks: HashMap<EndpointId, &HealthCheck> = endpoints
        .iter()
        .filter_map(|endpoint| Some((endpoint.id, endpoint.health_check.as_ref()?)))
        .collect();
    let ids: Vec<EndpointId> = endpoints.iter().map(|endpoint| endpoint.id).collect();
    let mut answers: HashMap<EndpointId, Opened> = HashMap::new();
    for opened in found(tx, &ids).await? {
        if let Some(endpoint) = opened.circuit.endpoint_id {
            answers.entry(endpoint).or_insert(opened);
        }
    }
    let mut missing: BTreeMap<WorkerId, Vec<&NewCircuit>> = BTreeMap::new();
    for endpoint in endpoints {
        if let Some(new) = &endpoint.circuit
            && !answers.contains_key(&endpoint.id)
        {
            missing.entry(new.worker).or_default().push(new);
        }
    }
    for (worker, news) in missing {
        for opened in open_on(tx, worker, &news, &checks).await? {
            if let Some(endpoint) = opened.circuit.endpoint_id {
                answers.insert(endpoint, opened);
            }
        }
    }
    tell(tx, &rechecked).await?;
    Ok(ids.iter().map(|id| answers.get(id).cloned()).collect())
}

/// Writes the endpoints' rows; their locks make openers of one endpoint go one after the other.
/// Answers with those that were there and are to be checked in another way from now on.
async fn keep(tx: &Transaction<'_>, endpoints: &[NewEndpoint]) -> Result<Vec<EndpointId>> {
    let mut sorted: Vec<&NewEndpoint> = endpoints.iter().collect();
    sorted.sort_by_key(|endpoint| endpoint.id);
    let ids: Vec<Uuid> = sorted.iter().map(|endpoint| endpoint.id.0).collect();
    let enabled: Vec<bool> = sorted.iter().map(|e| e.health_check.is_some()).collect();
    let checks: Vec<Value> = sorted
        .iter()
        .map(|endpoint| stored::health_check(endpoint.health_check.as_ref()))
        .collect::<Result<_>>()?;
    let rechecked = differing(tx, &ids, &checks).await?;
    let statement = tx
        .prepare_cached(
            "INSERT INTO endpoints (id, health_check_enabled, health_check_config, created_at, \
             updated_at) SELECT e.id, e.enabled, e.config, $4, $4 \
             FROM unnest($1::uuid[], $2::boolean[], $3::jsonb[]) AS e (id, enabled, config) \
             ON CONFLICT (id) DO UPDATE SET health_check_enabled = excluded.health_check_enabled, \
             health_check_config = excluded.health_check_config, updated_at = excluded.updated_at",
        )
        .await
        .doing(OPENING)?;
    tx.execute(&statement, &[&ids, &enabled, &checks, &timestamp::now()])
        .await
        .doing(OPENING)?;
    Ok(rechecked)
}

/// Which of these endpoints are there with another check; their rows are locked.
async fn differing(
    tx: &Transaction<'_>,
    ids: &[Uuid],
    checks: &[Value],
) -> Result<Vec<EndpointId>> {
    let statement = tx
        .prepare_cached(
            "SELECT p.id FROM endpoints p \
             JOIN unnest($1::uuid[], $2::jsonb[]) AS n (id, config) ON n.id = p.id \
             WHERE p.health_check_config IS DISTINCT FROM n.config ORDER BY p.id FOR UPDATE OF p",
        )
        .await
        .doing(OPENING)?;
    let rows = tx
        .query(&statement, &[&ids, &checks])
        .await
        .doing(OPENING)?;
    Ok(rows.iter().map(|row| EndpointId(row.get(0))).collect())
}

/// Logs for the workers of these endpoints how their routes are checked now. The outbox sends it.
async fn tell(tx: &Transaction<'_>, ids: &[EndpointId]) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let locked = "c.endpoint_id = ANY($1) ORDER BY c.id FOR UPDATE OF c";
    let mut held = circuits::select(tx, locked, &ids).await?;
    held.sort_by_key(|circuit| (circuit.worker, circuit.id));
    for group in held.chunk_by(|a, b| a.worker == b.worker) {
        let Some(id) = group.first().map(|circuit| circuit.worker) else {
            continue;
        };
        let worker = workers::get(tx, id).await?;
        let worker = worker.ok_or(StoreError::NoSuchWorker(id))?;
        let change = |c: &Circuit| Change::RouteUpdated(Box::new(c.clone()), c.route_info.clone());
        let changes = group.iter().map(change).collect();
        events::log_all(tx, id, &worker.authority, changes, None).await?;
    }
    Ok(())
}

/// The circuits these endpoints have, with their workers.
async fn found(tx: &Transaction<'_>, ids: &[EndpointId]) -> Result<Vec<Opened>> {
    let mut known: HashMap<WorkerId, (Worker, u64)> = HashMap::new();
    let mut found = Vec::new();
    for circuit in circuits_of(tx, ids).await? {
        let (worker, generation) = match known.entry(circuit.worker) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => {
                let id = *entry.key();
                let worker = workers::get(tx, id).await?;
                let worker = worker.ok_or(StoreError::NoSuchWorker(id))?;
                let generation = events::generation(tx, id).await?;
                entry.insert((worker, generation)).clone()
            }
        };
        found.push(Opened {
            circuit,
            worker,
            generation,
            reused: true,
        });
    }
    Ok(found)
}

/// Opens circuits on one worker.
async fn open_on(
    tx: &Transaction<'_>,
    id: WorkerId,
    news: &[&NewCircuit],
    checks: &HashMap<EndpointId, &HealthCheck>,
) -> Result<Vec<Opened>> {
    let worker = workers::lock(tx, id).await?;
    let mut worker = worker.ok_or(StoreError::NoSuchWorker(id))?;
    let (ports, names) = taken(tx, &worker, news).await?;
    let mut allotment = Allotment::new(&worker, ports, names);
    let now = timestamp::now();
    let born: Vec<Circuit> = news
        .iter()
        .map(|new| {
            let mut circuit = stored::born(new, &allotment.slot(&new.slot)?, now);
            let check = circuit.endpoint_id.and_then(|id| checks.get(&id));
            circuit.health_check = check.map(|&check| check.clone());
            Ok(circuit)
        })
        .collect::<Result<_>>()?;
    insert(tx, &worker, &born).await?;
    let count = i32::try_from(born.len()).unwrap_or(i32::MAX);
    circuits::occupy(tx, id, count).await?;
    worker.occupied_slots = worker.occupied_slots.saturating_add(count);
    let changes = born
        .iter()
        .map(|c| Change::Created(vec![c.clone()]))
        .collect();
    let record = |circuit| Record::new(Action::Opened, circuit, &worker.authority);
    let records: Vec<Record<'_>> = born.iter().map(record).collect();
    if let Some(first) = news.first() {
        audit::write(tx, &records, &first.cause()).await?;
    }
    let request_id = news
        .first()
        .and_then(|new| new.origin_request_id.as_deref());
    let last = events::log_all(tx, id, &worker.authority, changes, request_id).await?;
    let first = last.saturating_sub(born.len() as u64);
    Ok(born
        .into_iter()
        .zip(first + 1..)
        .map(|(circuit, generation)| Opened {
            circuit,
            worker: worker.clone(),
            generation,
            reused: false,
        })
        .collect())
}

/// The ports of the worker that are taken, and which of the wished names are in its domain.
pub(super) async fn taken(
    tx: &Transaction<'_>,
    worker: &Worker,
    news: &[&NewCircuit],
) -> Result<(HashSet<u16>, HashSet<String>)> {
    let names: Vec<&str> = news
        .iter()
        .filter_map(|new| match &new.slot {
            SlotWish::Subdomain(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let statement = tx
        .prepare_cached(
            "SELECT port, NULL::text FROM circuits WHERE worker = $1 AND port IS NOT NULL \
             UNION ALL SELECT NULL, c.subdomain::text FROM circuits c \
             JOIN workers w ON w.id = c.worker WHERE c.subdomain = ANY($2::text[]) \
             AND lower(w.wildcard_domain) = lower($3::text)",
        )
        .await
        .doing(OPENING)?;
    let params: [&(dyn ToSql + Sync); 3] = [&worker.id.0, &names, &worker.wildcard_domain];
    let rows = tx.query(&statement, &params).await.doing(OPENING)?;
    let port = |row: &tokio_postgres::Row| row.get::<_, Option<i32>>(0);
    Ok((
        rows.iter()
            .filter_map(|row| u16::try_from(port(row)?).ok())
            .collect(),
        rows.iter().filter_map(|row| row.get(1)).collect(),
    ))
}

/// Writes the rows of one worker's new circuits in one statement.
pub(super) async fn insert(tx: &Transaction<'_>, worker: &Worker, born: &[Circuit]) -> Result<()> {
    let domain = worker.wildcard_domain.as_ref();
    let domain = domain.map(|domain| domain.to_ascii_lowercase());
    let rows: Vec<Value> = born
        .iter()
        .map(|circuit| {
            Ok(json!({
                "id": circuit.id, "app": circuit.app, "protocol": circuit.protocol.label(),
                "app_mode": circuit.app_mode.label(),
                "frontend_mode": circuit.frontend_mode.label(), "port": circuit.port,
                "subdomain": circuit.subdomain,
                "slot_domain": circuit.subdomain.as_ref().and(domain.as_ref()),
                "envs": circuit.envs, "arguments": circuit.arguments,
                "open_to_public": circuit.open_to_public,
                "allowed_client_ips": circuit.allowed_client_ips, "user_id": circuit.user_id,
                "endpoint_id": circuit.endpoint_id, "runtime_variant": circuit.runtime_variant,
                "session_ids": circuit.session_ids, "route_info": stored::route_info(circuit)?,
                "created_at": timestamp::format(&circuit.created_at),
                "origin_request_id": circuit.origin_request_id,
            }))
        })
        .collect::<Result<_>>()?;
    let statement = tx
        .prepare_cached(
            "INSERT INTO circuits (id, app, protocol, worker, app_mode, frontend_mode, port, \
             subdomain, slot_domain, envs, arguments, open_to_public, allowed_client_ips, user_id, \
             endpoint_id, runtime_variant, session_ids, route_info, created_at, updated_at, \
             origin_request_id) SELECT n.id, n.app, n.protocol, $1, n.app_mode, n.frontend_mode, \
             n.port, n.subdomain, n.slot_domain, n.envs, n.arguments, n.open_to_public, \
             n.allowed_client_ips, n.user_id, n.endpoint_id, n.runtime_variant, n.session_ids, \
             n.route_info, n.created_at, n.created_at, n.origin_request_id \
             FROM jsonb_to_recordset($2::jsonb) AS n (id uuid, app text, protocol proxyprotocol, \
             app_mode appmode, frontend_mode frontendmode, port integer, subdomain text, \
             slot_domain text, envs jsonb, arguments text, open_to_public boolean, \
             allowed_client_ips text, user_id uuid, endpoint_id uuid, runtime_variant text, \
             session_ids uuid[], route_info jsonb, created_at timestamptz, \
             origin_request_id text)",
        )
        .await
        .doing(OPENING)?;
    tx.execute(&statement, &[&worker.id.0, &Value::Array(rows)])
        .await
        .map(drop)
        .map_err(|error| breached(error, born))
}

/// A breach of a slot's unique index: somebody who does not lock workers was faster. The caller
/// chooses anew.
fn breached(error: tokio_postgres::Error, born: &[Circuit]) -> StoreError {
    let slot = born.first().and_then(Circuit::slot);
    match slot {
        Some(Slot::Subdomain(subdomain)) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            StoreError::SubdomainTaken { subdomain }
        }
        _ => StoreError::Failed {
            doing: OPENING,
            cause: Box::new(error),
        },
    }
}

/// The circuits of these endpoints, oldest first.
pub(super) async fn circuits_of(
    client: &impl GenericClient,
    ids: &[EndpointId],
) -> Result<Vec<Circuit>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let wanted = "c.endpoint_id = ANY($1) ORDER BY c.created_at, c.id";
    circuits::select(client, wanted, &ids).await
}

/// How an endpoint's routes are to be probed.
pub(super) async fn set_health_check(
    tx: &Transaction<'_>,
    id: EndpointId,
    check: Option<&HealthCheck>,
) -> Result<bool> {
    const DOING: &str = "keeping a health check";
    let rechecked = differing(tx, &[id.0], &[stored::health_check(check)?]).await?;
    let statement = tx
        .prepare_cached(
            "UPDATE endpoints SET health_check_enabled = $2, health_check_config = $3, \
             updated_at = $4 WHERE id = $1",
        )
        .await
        .doing(DOING)?;
    let config = stored::health_check(check)?;
    let now = timestamp::now();
    let rows = tx
        .execute(&statement, &[&id.0, &check.is_some(), &config, &now])
        .await
        .doing(DOING)?;
    tell(tx, &rechecked).await?;
    Ok(rows > 0)
}

/// Forgets endpoints and closes their circuits.
pub(super) async fn delete(
    tx: &Transaction<'_>,
    ids: &[EndpointId],
    cause: &Cause,
) -> Result<Vec<Closed>> {
    const DOING: &str = "deleting endpoints";
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let statement = tx
        .prepare_cached(
            "DELETE FROM endpoints WHERE id IN \
             (SELECT id FROM endpoints WHERE id = ANY($1) ORDER BY id FOR UPDATE)",
        )
        .await
        .doing(DOING)?;
    tx.execute(&statement, &[&ids]).await.doing(DOING)?;
    circuits::close_all(tx, circuits::Key::Endpoint, &ids, cause).await
}

/// Changes routes.
pub(super) async fn change_routes(
    tx: &Transaction<'_>,
    changes: &[(EndpointId, RouteChange)],
    cause: &Cause,
) -> Result<Rerouting> {
    let ids: Vec<Uuid> = changes.iter().map(|(id, _)| id.0).collect();
    let locked = "c.endpoint_id = ANY($1) ORDER BY c.id FOR UPDATE OF c";
    let mut held = circuits::select(tx, locked, &ids).await?;
    held.sort_by_key(|circuit| (circuit.created_at, circuit.id));
    let (outcomes, touched) = endpoint::apply(held, changes, timestamp::now());
    let circuits = rewrite(tx, &touched, cause).await?;
    Ok(Rerouting { outcomes, circuits })
}

/// Writes circuits with their new routes, in the order of their workers, and logs that they have
/// them.
pub(super) async fn rewrite(
    tx: &Transaction<'_>,
    touched: &[Circuit],
    cause: &Cause,
) -> Result<Vec<Rerouted>> {
    write_routes(tx, touched).await?;
    let mut circuits = Vec::with_capacity(touched.len());
    for group in touched.chunk_by(|a, b| a.worker == b.worker) {
        let Some(id) = group.first().map(|circuit| circuit.worker) else {
            continue;
        };
        let worker = workers::get(tx, id).await?;
        let worker = worker.ok_or(StoreError::NoSuchWorker(id))?;
        let record = |circuit| Record::new(Action::Rerouted, circuit, &worker.authority);
        let records: Vec<Record<'_>> = group.iter().map(record).collect();
        audit::write(tx, &records, cause).await?;
        let change = |c: &Circuit| Change::RouteUpdated(Box::new(c.clone()), c.route_info.clone());
        let changes = group.iter().map(change).collect();
        let request_id = cause.request_id.as_deref();
        let last = events::log_all(tx, id, &worker.authority, changes, request_id).await?;
        let first = last.saturating_sub(group.len() as u64);
        for (circuit, generation) in group.iter().zip(first + 1..) {
            circuits.push(Rerouted {
                circuit: circuit.clone(),
                authority: worker.authority.clone(),
                generation,
            });
        }
    }
    Ok(circuits)
}

async fn write_routes(tx: &Transaction<'_>, touched: &[Circuit]) -> Result<()> {
    if touched.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = touched.iter().map(|circuit| circuit.id.0).collect();
    let routes: Vec<Value> = touched
        .iter()
        .map(stored::route_info)
        .collect::<Result<_>>()?;
    let statement = tx
        .prepare_cached(
            "UPDATE circuits c SET route_info = n.routes, updated_at = $3 \
             FROM unnest($1::uuid[], $2::jsonb[]) AS n (id, routes) WHERE c.id = n.id",
        )
        .await
        .doing(ROUTING)?;
    let now = touched.first().map(|circuit| circuit.updated_at);
    tx.execute(&statement, &[&ids, &routes, &now])
        .await
        .map(drop)
        .doing(ROUTING)
}
