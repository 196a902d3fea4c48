//! Workers in PostgreSQL.

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Transaction};
use patchbay_common::circuit::AppMode;
use patchbay_common::id::WorkerId;
use patchbay_common::timestamp;
use patchbay_common::worker::{AppFilter, Registration, Worker, WorkerStatus};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{pool, rows};
use crate::store::error::Doing;
use crate::store::stored::{self, WorkerRow};
use crate::store::{Result, StoreError, fit};

const REGISTERING: &str = "registering a worker";
const READING: &str = "reading workers";

/// Adds or updates the worker of this authority.
pub(super) async fn register(tx: &Transaction<'_>, registration: &Registration) -> Result<Worker> {
    // Two registrations of one new name come one after the other, so that both nodes count.
    pool::take_turns(tx, &[format!("worker/{}", registration.authority)]).await?;
    let known = one(
        tx,
        "w.authority = $1 FOR UPDATE OF w",
        &registration.authority,
    )
    .await?;
    // Whoever served under a lost worker's name is gone: counting starts again.
    let counted = known
        .as_ref()
        .filter(|worker| worker.status == WorkerStatus::Alive)
        .map(|worker| worker.nodes);
    let id = upsert(tx, registration).await?;
    if known.is_some() {
        follow_domain(tx, id, fit::slot_domain(registration).as_deref()).await?;
    }
    if counted.is_none() {
        execute(tx, "DELETE FROM patchbay_nodes WHERE worker = $1", &[&id.0]).await?;
    }
    let nodes = match registration.node_id.as_deref() {
        Some(node) => count_node(tx, id, node).await?,
        None => counted.unwrap_or(0).max(0).saturating_add(1),
    };
    set_nodes(tx, id, nodes).await?;
    execute(
        tx,
        "INSERT INTO patchbay_generations (worker) VALUES ($1) ON CONFLICT DO NOTHING",
        &[&id.0],
    )
    .await?;
    replace_filters(tx, id, &registration.app_filters).await?;
    get(tx, id).await?.ok_or(StoreError::NoSuchWorker(id))
}

/// The incumbent may register the same name, and takes no turns: its row is updated.
async fn upsert(tx: &Transaction<'_>, registration: &Registration) -> Result<WorkerId> {
    let traffics: Vec<&str> = registration
        .accepted_traffics
        .iter()
        .map(|mode| AppMode::label(*mode))
        .collect();
    let range = registration
        .port_range
        .map(|(first, last)| vec![i32::from(first), i32::from(last)]);
    let statement = tx
        .prepare_cached(
            "INSERT INTO workers AS w (id, authority, frontend_mode, protocol, hostname, \
             tls_listen, tls_advertised, api_port, available_slots, port_range, wildcard_domain, \
             wildcard_traffic_port, accepted_traffics, filtered_apps_only, \
             traefik_last_used_marker_path, created_at, updated_at, status, occupied_slots, nodes) \
             VALUES ($1, $2, $3::text::frontendmode, $4::text::proxyprotocol, $5, $6, $7, $8, $9, \
             $10, $11, $12, $13::text[]::appmode[], $14, $15, $16, $16, 'ALIVE', 0, 0) \
             ON CONFLICT (authority) DO UPDATE SET frontend_mode = excluded.frontend_mode, \
             protocol = excluded.protocol, hostname = excluded.hostname, \
             tls_listen = excluded.tls_listen, tls_advertised = excluded.tls_advertised, \
             api_port = excluded.api_port, available_slots = excluded.available_slots, \
             port_range = excluded.port_range, wildcard_domain = excluded.wildcard_domain, \
             wildcard_traffic_port = excluded.wildcard_traffic_port, \
             accepted_traffics = excluded.accepted_traffics, \
             filtered_apps_only = excluded.filtered_apps_only, \
             traefik_last_used_marker_path = excluded.traefik_last_used_marker_path, \
             updated_at = excluded.updated_at, status = 'ALIVE' RETURNING w.id",
        )
        .await
        .doing(REGISTERING)?;
    let row = tx
        .query_one(
            &statement,
            &[
                &WorkerId::random().0,
                &registration.authority,
                &registration.frontend_mode.label(),
                &registration.protocol.carried().label(),
                &registration.hostname,
                &registration.tls_listen,
                &registration.tls_advertised,
                &i32::from(registration.api_port),
                &fit::available_slots(registration),
                &range,
                &registration.wildcard_domain,
                &registration.wildcard_traffic_port.map(i32::from),
                &traffics,
                &registration.filtered_apps_only,
                &registration.traefik_last_used_marker_path,
                &timestamp::now(),
            ],
        )
        .await
        .doing(REGISTERING)?;
    Ok(WorkerId(row.get(0)))
}

/// Moves the worker's subdomains to the domain it has now. One that is taken there stays out of
/// the constraint, as a circuit of the incumbent's would.
async fn follow_domain(tx: &Transaction<'_>, id: WorkerId, domain: Option<&str>) -> Result<()> {
    execute(
        tx,
        "UPDATE circuits c SET slot_domain = CASE WHEN EXISTS (SELECT 1 FROM circuits o WHERE \
         o.slot_domain = $2 AND o.subdomain = c.subdomain AND o.id <> c.id) \
         THEN NULL ELSE $2 END \
         WHERE c.worker = $1 AND c.subdomain IS NOT NULL AND c.slot_domain IS DISTINCT FROM $2",
        &[&id.0, &domain],
    )
    .await
}

/// Counts a node that names itself; answers how many have.
async fn count_node(tx: &Transaction<'_>, id: WorkerId, node: &str) -> Result<i32> {
    execute(
        tx,
        "INSERT INTO patchbay_nodes (worker, node_id, last_seen) VALUES ($1, $2, $3) \
         ON CONFLICT (worker, node_id) DO UPDATE SET last_seen = excluded.last_seen",
        &[&id.0, &node, &timestamp::now()],
    )
    .await?;
    named_nodes(tx, id).await
}

async fn named_nodes(tx: &Transaction<'_>, id: WorkerId) -> Result<i32> {
    let statement = tx
        .prepare_cached("SELECT count(*)::integer FROM patchbay_nodes WHERE worker = $1")
        .await
        .doing(READING)?;
    let row = tx.query_one(&statement, &[&id.0]).await.doing(READING)?;
    Ok(row.get(0))
}

async fn replace_filters(tx: &Transaction<'_>, id: WorkerId, filters: &[AppFilter]) -> Result<()> {
    execute(
        tx,
        "DELETE FROM worker_app_filters WHERE worker = $1",
        &[&id.0],
    )
    .await?;
    for filter in filters {
        execute(
            tx,
            "INSERT INTO worker_app_filters (id, property_name, property_value, worker) \
             VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            &[&Uuid::new_v4(), &filter.key, &filter.value, &id.0],
        )
        .await?;
    }
    Ok(())
}

/// A sign of life. A node that was forgotten meanwhile is counted again.
pub(super) async fn heartbeat(
    tx: &Transaction<'_>,
    id: WorkerId,
    node: Option<&str>,
) -> Result<Option<Worker>> {
    execute(
        tx,
        "UPDATE workers SET updated_at = $2, status = 'ALIVE' WHERE id = $1",
        &[&id.0, &timestamp::now()],
    )
    .await?;
    let Some(worker) = get(tx, id).await? else {
        return Ok(None);
    };
    let Some(node) = node else {
        return Ok(Some(worker));
    };
    let nodes = count_node(tx, id, node).await?;
    if nodes != worker.nodes {
        set_nodes(tx, id, nodes).await?;
    }
    Ok(Some(Worker { nodes, ..worker }))
}

async fn set_nodes(tx: &Transaction<'_>, id: WorkerId, nodes: i32) -> Result<()> {
    execute(
        tx,
        "UPDATE workers SET nodes = $2 WHERE id = $1",
        &[&id.0, &nodes],
    )
    .await
}

/// Forgets silent nodes of workers that live by others.
pub(super) async fn forget_nodes(tx: &Transaction<'_>, silent_since: DateTime<Utc>) -> Result<u64> {
    const DOING: &str = "forgetting nodes";
    let statement = tx
        .prepare_cached(
            "SELECT w.id FROM workers w WHERE w.status = 'ALIVE' AND EXISTS \
             (SELECT 1 FROM patchbay_nodes n WHERE n.worker = w.id AND n.last_seen < $1) \
             ORDER BY w.id FOR UPDATE OF w",
        )
        .await
        .doing(DOING)?;
    let rows = tx.query(&statement, &[&silent_since]).await.doing(DOING)?;
    let mut forgotten = 0;
    for row in rows {
        let id = WorkerId(row.get(0));
        let statement = tx
            .prepare_cached("DELETE FROM patchbay_nodes WHERE worker = $1 AND last_seen < $2")
            .await
            .doing(DOING)?;
        let silent = tx.execute(&statement, &[&id.0, &silent_since]).await;
        forgotten += silent.doing(DOING)?;
        let left = named_nodes(tx, id).await?;
        set_nodes(tx, id, left.max(1)).await?;
    }
    Ok(forgotten)
}

/// Sets the counters of occupied slots right. They are compared without a lock first, and counted
/// again under it.
pub(super) async fn recount(tx: &Transaction<'_>) -> Result<Vec<WorkerId>> {
    const DOING: &str = "counting slots";
    let statement = tx
        .prepare_cached(
            "SELECT w.id FROM workers w LEFT JOIN (SELECT worker, count(*)::integer AS held \
             FROM circuits GROUP BY worker) c ON c.worker = w.id \
             WHERE w.occupied_slots <> coalesce(c.held, 0) ORDER BY w.id",
        )
        .await
        .doing(DOING)?;
    let mut mended = Vec::new();
    for row in tx.query(&statement, &[]).await.doing(DOING)? {
        let id = WorkerId(row.get(0));
        if lock(tx, id).await?.is_none() {
            continue;
        }
        let statement = tx
            .prepare_cached(
                "UPDATE workers w SET occupied_slots = c.held FROM \
                 (SELECT count(*)::integer AS held FROM circuits WHERE worker = $1) c \
                 WHERE w.id = $1 AND w.occupied_slots <> c.held",
            )
            .await
            .doing(DOING)?;
        if tx.execute(&statement, &[&id.0]).await.doing(DOING)? > 0 {
            mended.push(id);
        }
    }
    Ok(mended)
}

/// One node leaves. A name that is not counted changes nothing: it left before.
pub(super) async fn leave(
    tx: &Transaction<'_>,
    id: WorkerId,
    node: Option<&str>,
) -> Result<Option<Worker>> {
    let Some(worker) = lock(tx, id).await? else {
        return Ok(None);
    };
    let left = match node {
        None => worker.nodes.saturating_sub(1).max(0),
        Some(node) => {
            let statement = tx
                .prepare_cached("DELETE FROM patchbay_nodes WHERE worker = $1 AND node_id = $2")
                .await
                .doing(REGISTERING)?;
            let known = tx.execute(&statement, &[&id.0, &node]).await;
            if known.doing("letting a worker leave")? == 0 {
                return get(tx, id).await;
            }
            named_nodes(tx, id).await?
        }
    };
    execute(
        tx,
        "UPDATE workers SET nodes = $2, \
         status = CASE WHEN $2 = 0 THEN 'LOST' ELSE status END WHERE id = $1",
        &[&id.0, &left],
    )
    .await?;
    get(tx, id).await
}

/// Marks silent workers as lost.
pub(super) async fn mark_lost(
    client: &impl GenericClient,
    silent_since: DateTime<Utc>,
) -> Result<Vec<Worker>> {
    let sql = format!(
        "UPDATE workers w SET status = 'LOST' \
         WHERE w.status = 'ALIVE' AND coalesce(w.updated_at, w.created_at) < $1 RETURNING {}",
        rows::WORKER
    );
    select(client, &sql, &[&silent_since]).await
}

/// The worker of this id.
pub(super) async fn get(client: &impl GenericClient, id: WorkerId) -> Result<Option<Worker>> {
    one(client, "w.id = $1", &id.0).await
}

/// The worker of this id, locked until the transaction ends.
pub(super) async fn lock(tx: &Transaction<'_>, id: WorkerId) -> Result<Option<Worker>> {
    one(tx, "w.id = $1 FOR UPDATE OF w", &id.0).await
}

/// The worker of this name.
pub(super) async fn by_authority(
    client: &impl GenericClient,
    authority: &str,
) -> Result<Option<Worker>> {
    one(client, "w.authority = $1", &authority).await
}

/// All workers.
pub(super) async fn all(client: &impl GenericClient) -> Result<Vec<Worker>> {
    let sql = format!(
        "SELECT {} FROM workers w ORDER BY w.authority",
        rows::WORKER
    );
    let statement = client.prepare_cached(&sql).await.doing(READING)?;
    let rows = client.query(&statement, &[]).await.doing(READING)?;
    let rows = rows.iter().map(|row| rows::worker(row).doing(READING));
    Ok(stored::readable_workers(rows))
}

/// All filters.
pub(super) async fn filters(client: &impl GenericClient) -> Result<Vec<(WorkerId, AppFilter)>> {
    const DOING: &str = "reading filters";
    let statement = client
        .prepare_cached(
            "SELECT worker, property_name, property_value FROM worker_app_filters \
             ORDER BY worker, property_name, property_value",
        )
        .await
        .doing(DOING)?;
    let rows = client.query(&statement, &[]).await.doing(DOING)?;
    let filter = |row: &tokio_postgres::Row| AppFilter {
        key: row.get(1),
        value: row.get(2),
    };
    Ok(rows
        .iter()
        .map(|row| (WorkerId(row.get(0)), filter(row)))
        .collect())
}

async fn one(
    client: &impl GenericClient,
    condition: &str,
    key: &(dyn ToSql + Sync),
) -> Result<Option<Worker>> {
    let sql = format!("SELECT {} FROM workers w WHERE {condition}", rows::WORKER);
    let mut found = select(client, &sql, &[key]).await?;
    Ok(found.pop())
}

async fn select(
    client: &impl GenericClient,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Worker>> {
    let statement = client.prepare_cached(sql).await.doing(READING)?;
    let rows = client.query(&statement, params).await.doing(READING)?;
    rows.iter()
        .map(|row| rows::worker(row).doing(READING).and_then(WorkerRow::read))
        .collect()
}

async fn execute(tx: &Transaction<'_>, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<()> {
    let statement = tx.prepare_cached(sql).await.doing(REGISTERING)?;
    tx.execute(&statement, params)
        .await
        .map(drop)
        .doing(REGISTERING)
}
