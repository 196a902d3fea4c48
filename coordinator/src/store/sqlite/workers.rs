//! Workers in SQLite.

use chrono::{DateTime, Utc};
use patchbay_common::circuit::AppMode;
use patchbay_common::id::WorkerId;
use patchbay_common::timestamp;
use patchbay_common::worker::{AppFilter, Registration, Worker, WorkerStatus};
use rusqlite::{OptionalExtension, Params, Transaction, params};
use serde_json::json;
use uuid::Uuid;

use super::rows::{self, micros};
use crate::store::error::Doing;
use crate::store::stored::{self, WorkerRow};
use crate::store::{Result, StoreError, fit};

const REGISTERING: &str = "registering a worker";
const READING: &str = "reading workers";

/// Adds or updates the worker of this authority.
pub(super) fn register(tx: &Transaction<'_>, registration: &Registration) -> Result<Worker> {
    let known = by_authority(tx, &registration.authority)?;
    let id = known.as_ref().map_or_else(WorkerId::random, |w| w.id);
    // Whoever served under a lost worker's name is gone: counting starts again.
    let counted = known
        .as_ref()
        .filter(|worker| worker.status == WorkerStatus::Alive)
        .map(|worker| worker.nodes);
    if known.is_none() {
        insert(tx, id, registration)?;
    } else {
        update(tx, id, registration)?;
        follow_domain(tx, id, fit::slot_domain(registration).as_deref())?;
    }
    if counted.is_none() {
        execute(
            tx,
            "DELETE FROM patchbay_nodes WHERE worker = ?1",
            [id.to_string()],
        )?;
    }
    let nodes = match registration.node_id.as_deref() {
        Some(node) => count_node(tx, id, node)?,
        None => counted.unwrap_or(0).max(0).saturating_add(1),
    };
    set_nodes(tx, id, nodes)?;
    execute(
        tx,
        "INSERT INTO patchbay_generations (worker) VALUES (?1) ON CONFLICT DO NOTHING",
        [id.to_string()],
    )?;
    replace_filters(tx, id, &registration.app_filters)?;
    get(tx, id)?.ok_or(StoreError::NoSuchWorker(id))
}

fn insert(tx: &Transaction<'_>, id: WorkerId, registration: &Registration) -> Result<()> {
    execute(
        tx,
        "INSERT INTO workers (id, authority, frontend_mode, protocol, hostname, tls_listen, \
         tls_advertised, api_port, available_slots, occupied_slots, nodes, accepted_traffics, \
         filtered_apps_only, created_at, updated_at, status) \
         VALUES (?1, ?2, '', '', '', 0, 0, 0, 0, 0, 0, '[]', 0, ?3, 0, '')",
        params![
            id.to_string(),
            registration.authority,
            micros(timestamp::now())
        ],
    )?;
    update(tx, id, registration)
}

fn update(tx: &Transaction<'_>, id: WorkerId, registration: &Registration) -> Result<()> {
    let traffics: Vec<&str> = registration
        .accepted_traffics
        .iter()
        .map(|mode| AppMode::label(*mode))
        .collect();
    execute(
        tx,
        "UPDATE workers SET frontend_mode = ?2, protocol = ?3, hostname = ?4, tls_listen = ?5, \
         tls_advertised = ?6, api_port = ?7, available_slots = ?8, port_range = ?9, \
         wildcard_domain = ?10, wildcard_traffic_port = ?11, accepted_traffics = ?12, \
         filtered_apps_only = ?13, traefik_last_used_marker_path = ?14, updated_at = ?15, \
         status = 'ALIVE' WHERE id = ?1",
        params![
            id.to_string(),
            registration.frontend_mode.label(),
            registration.protocol.carried().label(),
            registration.hostname,
            registration.tls_listen,
            registration.tls_advertised,
            registration.api_port,
            fit::available_slots(registration),
            registration
                .port_range
                .map(|(first, last)| json!([first, last]).to_string()),
            registration.wildcard_domain,
            registration.wildcard_traffic_port,
            json!(traffics).to_string(),
            registration.filtered_apps_only,
            registration.traefik_last_used_marker_path,
            micros(timestamp::now()),
        ],
    )
}

/// Moves the worker's subdomains to the domain it has now. One that is taken there stays out of
/// the constraint, as a circuit of the incumbent's would.
fn follow_domain(tx: &Transaction<'_>, id: WorkerId, domain: Option<&str>) -> Result<()> {
    execute(
        tx,
        "UPDATE circuits SET slot_domain = CASE WHEN EXISTS (SELECT 1 FROM circuits o WHERE \
         o.slot_domain = ?2 AND o.subdomain = circuits.subdomain AND o.id <> circuits.id) \
         THEN NULL ELSE ?2 END \
         WHERE worker = ?1 AND subdomain IS NOT NULL AND slot_domain IS NOT ?2",
        params![id.to_string(), domain],
    )
}

/// Counts a node that names itself; answers how many have.
fn count_node(tx: &Transaction<'_>, id: WorkerId, node: &str) -> Result<i32> {
    execute(
        tx,
        "INSERT INTO patchbay_nodes (worker, node_id, last_seen) VALUES (?1, ?2, ?3) \
         ON CONFLICT (worker, node_id) DO UPDATE SET last_seen = excluded.last_seen",
        params![id.to_string(), node, micros(timestamp::now())],
    )?;
    named_nodes(tx, id)
}

fn named_nodes(tx: &Transaction<'_>, id: WorkerId) -> Result<i32> {
    tx.query_row(
        "SELECT count(*) FROM patchbay_nodes WHERE worker = ?1",
        [id.to_string()],
        |row| row.get(0),
    )
    .doing(READING)
}

fn replace_filters(tx: &Transaction<'_>, id: WorkerId, filters: &[AppFilter]) -> Result<()> {
    execute(
        tx,
        "DELETE FROM worker_app_filters WHERE worker = ?1",
        [id.to_string()],
    )?;
    for filter in filters {
        execute(
            tx,
            "INSERT INTO worker_app_filters (id, property_name, property_value, worker) \
             VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            params![
                Uuid::new_v4().to_string(),
                filter.key,
                filter.value,
                id.to_string()
            ],
        )?;
    }
    Ok(())
}

/// A sign of life. A node that was forgotten meanwhile is counted again.
pub(super) fn heartbeat(
    tx: &Transaction<'_>,
    id: WorkerId,
    node: Option<&str>,
) -> Result<Option<Worker>> {
    execute(
        tx,
        "UPDATE workers SET updated_at = ?2, status = 'ALIVE' WHERE id = ?1",
        params![id.to_string(), micros(timestamp::now())],
    )?;
    let Some(worker) = get(tx, id)? else {
        return Ok(None);
    };
    let Some(node) = node else {
        return Ok(Some(worker));
    };
    let nodes = count_node(tx, id, node)?;
    if nodes != worker.nodes {
        set_nodes(tx, id, nodes)?;
    }
    Ok(Some(Worker { nodes, ..worker }))
}

fn set_nodes(tx: &Transaction<'_>, id: WorkerId, nodes: i32) -> Result<()> {
    execute(
        tx,
        "UPDATE workers SET nodes = ?2 WHERE id = ?1",
        params![id.to_string(), nodes],
    )
}

/// Forgets silent nodes of workers that live by others.
pub(super) fn forget_nodes(tx: &Transaction<'_>, silent_since: DateTime<Utc>) -> Result<u64> {
    const DOING: &str = "forgetting nodes";
    let concerned: Vec<Uuid> = tx
        .prepare_cached(
            "SELECT DISTINCT w.id FROM workers w JOIN patchbay_nodes n ON n.worker = w.id \
             WHERE w.status = 'ALIVE' AND n.last_seen < ?1",
        )
        .and_then(|mut statement| {
            let rows = statement.query_map([micros(silent_since)], |row| rows::uuid(row, 0))?;
            rows.collect()
        })
        .doing(DOING)?;
    let mut forgotten = 0;
    for id in concerned.into_iter().map(WorkerId) {
        let silent = tx
            .execute(
                "DELETE FROM patchbay_nodes WHERE worker = ?1 AND last_seen < ?2",
                params![id.to_string(), micros(silent_since)],
            )
            .doing(DOING)?;
        forgotten += silent as u64;
        let left = named_nodes(tx, id)?;
        set_nodes(tx, id, left.max(1))?;
    }
    Ok(forgotten)
}

/// Sets the counters of occupied slots right.
pub(super) fn recount(tx: &Transaction<'_>) -> Result<Vec<WorkerId>> {
    tx.prepare_cached(
        "UPDATE workers SET occupied_slots = \
         (SELECT count(*) FROM circuits c WHERE c.worker = workers.id) WHERE occupied_slots <> \
         (SELECT count(*) FROM circuits c WHERE c.worker = workers.id) RETURNING id",
    )
    .and_then(|mut statement| {
        let rows = statement.query_map([], |row| rows::uuid(row, 0).map(WorkerId))?;
        rows.collect()
    })
    .doing("counting slots")
}

/// One node leaves. A name that is not counted changes nothing: it left before.
pub(super) fn leave(
    tx: &Transaction<'_>,
    id: WorkerId,
    node: Option<&str>,
) -> Result<Option<Worker>> {
    let Some(worker) = get(tx, id)? else {
        return Ok(None);
    };
    let left = match node {
        None => worker.nodes.saturating_sub(1).max(0),
        Some(node) => {
            let known = tx
                .execute(
                    "DELETE FROM patchbay_nodes WHERE worker = ?1 AND node_id = ?2",
                    params![id.to_string(), node],
                )
                .doing("letting a worker leave")?;
            if known == 0 {
                return Ok(Some(worker));
            }
            named_nodes(tx, id)?
        }
    };
    execute(
        tx,
        "UPDATE workers SET nodes = ?2, status = CASE WHEN ?2 = 0 THEN 'LOST' ELSE status END \
         WHERE id = ?1",
        params![id.to_string(), left],
    )?;
    get(tx, id)
}

/// Marks silent workers as lost.
pub(super) fn mark_lost(tx: &Transaction<'_>, silent_since: DateTime<Utc>) -> Result<Vec<Worker>> {
    let silent = select(
        tx,
        &format!(
            "SELECT {} FROM workers w WHERE w.status = 'ALIVE' AND w.updated_at < ?1 \
             ORDER BY w.authority",
            rows::WORKER
        ),
        [micros(silent_since)],
    )?;
    execute(
        tx,
        "UPDATE workers SET status = 'LOST' WHERE status = 'ALIVE' AND updated_at < ?1",
        [micros(silent_since)],
    )?;
    Ok(silent
        .into_iter()
        .map(|worker| Worker {
            status: WorkerStatus::Lost,
            ..worker
        })
        .collect())
}

/// The worker of this id.
pub(super) fn get(tx: &Transaction<'_>, id: WorkerId) -> Result<Option<Worker>> {
    one(tx, "w.id = ?1", &id.to_string())
}

/// The worker of this name.
pub(super) fn by_authority(tx: &Transaction<'_>, authority: &str) -> Result<Option<Worker>> {
    one(tx, "w.authority = ?1", authority)
}

/// All workers.
pub(super) fn all(tx: &Transaction<'_>) -> Result<Vec<Worker>> {
    let sql = format!(
        "SELECT {} FROM workers w ORDER BY w.authority",
        rows::WORKER
    );
    let rows: Vec<rusqlite::Result<WorkerRow>> = tx
        .prepare_cached(&sql)
        .and_then(|mut statement| {
            statement
                .query_map([], |row| Ok(rows::worker(row)))?
                .collect()
        })
        .doing(READING)?;
    let rows = rows.into_iter().map(|row| row.doing(READING));
    Ok(stored::readable_workers(rows))
}

/// All filters.
pub(super) fn filters(tx: &Transaction<'_>) -> Result<Vec<(WorkerId, AppFilter)>> {
    tx.prepare_cached(
        "SELECT worker, property_name, property_value FROM worker_app_filters \
         ORDER BY worker, property_name, property_value",
    )
    .and_then(|mut statement| {
        statement
            .query_map([], |row| {
                let filter = AppFilter {
                    key: row.get(1)?,
                    value: row.get(2)?,
                };
                Ok((WorkerId(rows::uuid(row, 0)?), filter))
            })?
            .collect()
    })
    .doing("reading filters")
}

fn one(tx: &Transaction<'_>, condition: &str, key: &str) -> Result<Option<Worker>> {
    let sql = format!("SELECT {} FROM workers w WHERE {condition}", rows::WORKER);
    tx.prepare_cached(&sql)
        .and_then(|mut statement| statement.query_row([key], rows::worker).optional())
        .doing(READING)?
        .map(WorkerRow::read)
        .transpose()
}

fn select(tx: &Transaction<'_>, sql: &str, params: impl Params) -> Result<Vec<Worker>> {
    let rows: Vec<WorkerRow> = tx
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_map(params, rows::worker)?.collect())
        .doing(READING)?;
    rows.into_iter().map(WorkerRow::read).collect()
}

fn execute(tx: &Transaction<'_>, sql: &str, params: impl Params) -> Result<()> {
    tx.prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params))
        .map(drop)
        .doing(REGISTERING)
}
