//! Circuits in PostgreSQL.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Transaction};
use futures_util::TryStreamExt as _;
use patchbay_common::circuit::Circuit;
use patchbay_common::event::Change;
use patchbay_common::id::{CircuitId, SessionId, WorkerId};
use patchbay_common::timestamp;
use patchbay_common::worker::Worker;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{allocate, audit, events, pool, rows, workers};
use crate::store::audit::Record;
use crate::store::error::Doing;
use crate::store::stored::{self, CircuitRow};
use crate::store::{
    Action, Cause, Closed, HeldSlot, HeldSlots, LongOpen, NewCircuit, Opened, Result, Reuse,
    SlotWish, StoreError, WorkerCircuits,
};

/// The unique indexes of slots, as the migrations name them.
pub(super) const PORT_INDEX: &str = "patchbay_circuits_port";
const SUBDOMAIN_INDEX: &str = "patchbay_circuits_subdomain";
const DOMAIN_INDEX: &str = "patchbay_circuits_domain";

const OPENING: &str = "opening a circuit";
const CLOSING: &str = "closing a circuit";
const READING: &str = "reading circuits";

/// Opens a circuit, or answers with one to share.
pub(super) async fn open(tx: &Transaction<'_>, new: &NewCircuit) -> Result<Opened> {
    if let Some(reuse) = &new.reuse {
        // Of two openers of one app of one session, the second finds what the first has opened.
        pool::take_turns(tx, &[turn(reuse)]).await?;
        if let Some(shared) = reusable(tx, reuse).await? {
            return Ok(shared);
        }
    }
    let mut worker = workers::lock(tx, new.worker)
        .await?
        .ok_or(StoreError::NoSuchWorker(new.worker))?;
    let slot = allocate::slot(tx, new, &worker).await?;
    let circuit = stored::born(new, &slot, timestamp::now());
    let (records, cause) = (
        [Record::new(Action::Opened, &circuit, &worker.authority)],
        new.cause(),
    );
    let created = Change::Created(vec![circuit.clone()]);
    // Sent together and answered together: the worker's row is locked no longer than it must be.
    let (inserted, occupied, written, logged) = tokio::join!(
        insert(tx, &circuit, &worker, &new.slot),
        occupy(tx, worker.id, 1),
        audit::write(tx, &records, &cause),
        events::log(
            tx,
            worker.id,
            &worker.authority,
            created,
            new.origin_request_id.as_deref(),
        ),
    );
    inserted?;
    worker.occupied_slots = occupied?;
    written?;
    let generation = logged?;
    Ok(Opened {
        circuit,
        worker,
        generation,
        reused: false,
    })
}

/// What openers that may share a circuit take turns by.
pub(super) fn turn(reuse: &Reuse) -> String {
    let app = reuse.app.as_deref().unwrap_or_default();
    format!("circuit/{}/{app}", reuse.session)
}

async fn insert(
    tx: &Transaction<'_>,
    circuit: &Circuit,
    worker: &Worker,
    wish: &SlotWish,
) -> Result<()> {
    let domain = match wish {
        SlotWish::AnyPort | SlotWish::Port(_) => None,
        SlotWish::Subdomain(_) => worker.wildcard_domain.as_ref(),
    };
    let domain = domain.map(|domain| domain.to_ascii_lowercase());
    let sessions: Vec<Uuid> = circuit.session_ids.iter().map(|id| id.0).collect();
    let statement = tx
        .prepare_cached(
            "INSERT INTO circuits (id, app, protocol, worker, app_mode, frontend_mode, port, \
             subdomain, slot_domain, envs, arguments, open_to_public, allowed_client_ips, user_id, \
             endpoint_id, runtime_variant, session_ids, route_info, created_at, updated_at, \
             origin_request_id) VALUES ($1, $2, $3::text::proxyprotocol, $4, $5::text::appmode, \
             $6::text::frontendmode, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
             $19, $20, $21)",
        )
        .await
        .doing(OPENING)?;
    tx.execute(
        &statement,
        &[
            &circuit.id.0,
            &circuit.app,
            &circuit.protocol.label(),
            &circuit.worker.0,
            &circuit.app_mode.label(),
            &circuit.frontend_mode.label(),
            &circuit.port.map(i32::from),
            &circuit.subdomain,
            &domain,
            &Value::Object(circuit.envs.clone()),
            &circuit.arguments,
            &circuit.open_to_public,
            &circuit.allowed_client_ips,
            &circuit.user_id.map(|id| id.0),
            &circuit.endpoint_id.map(|id| id.0),
            &circuit.runtime_variant,
            &sessions,
            &stored::route_info(circuit)?,
            &circuit.created_at,
            &circuit.updated_at,
            &circuit.origin_request_id,
        ],
    )
    .await
    .map(drop)
    .map_err(|error| taken(error, worker.id, wish))
}

/// A breach of a slot's unique index is a taken slot, if that slot and no other was asked for. Who
/// takes any port is let down by [`pool::worth_another_try`] only after several.
fn taken(error: tokio_postgres::Error, worker: WorkerId, wish: &SlotWish) -> StoreError {
    match (pool::breached(&error), wish) {
        (Some(PORT_INDEX), SlotWish::Port(port)) => StoreError::PortTaken {
            worker,
            port: *port,
        },
        (Some(SUBDOMAIN_INDEX | DOMAIN_INDEX), SlotWish::Subdomain(name)) => {
            StoreError::SubdomainTaken {
                subdomain: name.clone(),
            }
        }
        _ => StoreError::Failed {
            doing: OPENING,
            cause: Box::new(error),
        },
    }
}

/// Keeps the counter that the incumbent reads as well, which never falls below zero; answers with
/// it. Counting each time would take longer the more circuits there are.
pub(super) async fn occupy(tx: &Transaction<'_>, worker: WorkerId, change: i32) -> Result<i32> {
    const DOING: &str = "counting slots";
    let statement = tx
        .prepare_cached(
            "UPDATE workers SET occupied_slots = greatest(occupied_slots + $2, 0) WHERE id = $1 \
             RETURNING occupied_slots",
        )
        .await
        .doing(DOING)?;
    let row = tx.query_one(&statement, &[&worker.0, &change]).await;
    Ok(row.doing(DOING)?.get(0))
}

/// The oldest circuit that can be shared.
pub(super) async fn reusable(client: &impl GenericClient, reuse: &Reuse) -> Result<Option<Opened>> {
    const DOING: &str = "looking for a circuit to share";
    let sql = format!(
        "SELECT {} FROM circuits c JOIN workers w ON w.id = c.worker \
         WHERE c.session_ids @> ARRAY[$1::uuid] AND c.app IS NOT DISTINCT FROM $2 \
         AND c.protocol = $3::text::proxyprotocol AND c.open_to_public = $4 \
         AND c.allowed_client_ips IS NOT DISTINCT FROM $5 AND w.status = 'ALIVE' \
         ORDER BY c.created_at, c.id LIMIT 1",
        rows::CIRCUIT
    );
    let statement = client.prepare_cached(&sql).await.doing(DOING)?;
    let row = client
        .query_opt(
            &statement,
            &[
                &reuse.session.0,
                &reuse.app,
                &reuse.protocol.carried().label(),
                &reuse.open_to_public,
                &reuse.allowed_client_ips,
            ],
        )
        .await
        .doing(DOING)?;
    let Some(row) = row else { return Ok(None) };
    let circuit = rows::circuit(&row).doing(DOING)?.read()?;
    let worker = workers::get(client, circuit.worker)
        .await?
        .ok_or(StoreError::NoSuchWorker(circuit.worker))?;
    let generation = events::generation(client, worker.id).await?;
    Ok(Some(Opened {
        circuit,
        worker,
        generation,
        reused: true,
    }))
}

/// Closes a circuit. The worker's row is locked first, as in an opening, so that the two cannot
/// wait for each other.
pub(super) async fn close(
    tx: &Transaction<'_>,
    id: CircuitId,
    cause: &Cause,
) -> Result<Option<Closed>> {
    let Some(row) = row(tx, id).await? else {
        return Ok(None);
    };
    let circuit = row.read_for_closing()?;
    let worker = workers::lock(tx, circuit.worker)
        .await?
        .ok_or(StoreError::NoSuchWorker(circuit.worker))?;
    let statement = tx
        .prepare_cached("DELETE FROM circuits WHERE id = $1")
        .await
        .doing(CLOSING)?;
    // Somebody else may have closed it while we waited for the lock.
    if tx.execute(&statement, &[&id.0]).await.doing(CLOSING)? == 0 {
        return Ok(None);
    }
    let records = [Record::new(Action::Closed, &circuit, &worker.authority)];
    let removed = Change::Removed(vec![circuit.clone()]);
    let request_id = cause.request_id.as_deref();
    let (occupied, written, logged) = tokio::join!(
        occupy(tx, worker.id, -1),
        audit::write(tx, &records, cause),
        events::log(tx, worker.id, &worker.authority, removed, request_id),
    );
    occupied?;
    written?;
    let generation = logged?;
    Ok(Some(Closed {
        circuit,
        authority: worker.authority,
        generation,
    }))
}

/// What circuits are closed by.
#[derive(Clone, Copy)]
pub(super) enum Key {
    Circuit,
    Endpoint,
}

/// Closes circuits. Their workers are locked first, in the order of their ids, as in openings.
pub(super) async fn close_all(
    tx: &Transaction<'_>,
    key: Key,
    ids: &[Uuid],
    cause: &Cause,
) -> Result<Vec<Closed>> {
    let column = match key {
        Key::Circuit => "id",
        Key::Endpoint => "endpoint_id",
    };
    let sql = format!(
        "SELECT id FROM workers WHERE id IN (SELECT worker FROM circuits WHERE {column} = ANY($1)) \
         ORDER BY id FOR UPDATE"
    );
    let statement = tx.prepare_cached(&sql).await.doing(CLOSING)?;
    tx.query(&statement, &[&ids]).await.doing(CLOSING)?;
    let sql = format!(
        "DELETE FROM circuits c WHERE c.{column} = ANY($1) RETURNING {}",
        rows::CIRCUIT
    );
    let statement = tx.prepare_cached(&sql).await.doing(CLOSING)?;
    let deleted = tx.query(&statement, &[&ids]).await.doing(CLOSING)?;
    let mut by_worker: BTreeMap<WorkerId, Vec<Circuit>> = BTreeMap::new();
    for row in &deleted {
        let circuit = rows::circuit(row).doing(CLOSING)?.read_for_closing()?;
        by_worker.entry(circuit.worker).or_default().push(circuit);
    }
    let mut closed = Vec::with_capacity(deleted.len());
    for (id, gone) in by_worker {
        let worker = workers::get(tx, id).await?;
        let authority = worker.ok_or(StoreError::NoSuchWorker(id))?.authority;
        let count = i32::try_from(gone.len()).unwrap_or(i32::MAX);
        occupy(tx, id, -count).await?;
        let record = |circuit| Record::new(Action::Closed, circuit, &authority);
        let records: Vec<Record<'_>> = gone.iter().map(record).collect();
        audit::write(tx, &records, cause).await?;
        let changes = gone
            .iter()
            .map(|c| Change::Removed(vec![c.clone()]))
            .collect();
        let last =
            events::log_all(tx, id, &authority, changes, cause.request_id.as_deref()).await?;
        let first = last.saturating_sub(gone.len() as u64);
        closed.extend(
            gone.into_iter()
                .zip(first + 1..)
                .map(|(circuit, generation)| Closed {
                    circuit,
                    authority: authority.clone(),
                    generation,
                }),
        );
    }
    Ok(closed)
}

/// A session's circuits, oldest first.
pub(super) async fn of_session(
    client: &impl GenericClient,
    session: SessionId,
) -> Result<Vec<Circuit>> {
    let wanted = "c.session_ids && $1 ORDER BY c.created_at, c.id";
    select(client, wanted, &[session.0]).await
}

/// A page of people's circuits that were opened before a moment, by id.
pub(super) async fn long_open(
    client: &impl GenericClient,
    opened_before: DateTime<Utc>,
    after: Option<CircuitId>,
    limit: usize,
) -> Result<Vec<LongOpen>> {
    let statement = client
        .prepare_cached(
            "SELECT id, app, created_at, worker FROM circuits WHERE app_mode::text = 'INTERACTIVE' \
             AND protocol::text IN ('HTTP', 'TCP') AND created_at < $1 \
             AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
        )
        .await
        .doing(READING)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let after = after.map(|id| id.0);
    let rows = client
        .query(&statement, &[&opened_before, &after, &limit])
        .await;
    let read = |row: &Row| {
        Ok(LongOpen {
            id: CircuitId(row.try_get(0)?),
            app: row.try_get(1)?,
            opened: row.try_get(2)?,
            worker: WorkerId(row.try_get(3)?),
        })
    };
    rows.and_then(|rows| rows.iter().map(read).collect())
        .doing(READING)
}

/// The circuits that a condition on `$1`, a list of ids, selects.
pub(super) async fn select(
    client: &impl GenericClient,
    wanted: &str,
    ids: &[Uuid],
) -> Result<Vec<Circuit>> {
    let sql = format!("SELECT {} FROM circuits c WHERE {wanted}", rows::CIRCUIT);
    let statement = client.prepare_cached(&sql).await.doing(READING)?;
    let rows = client.query(&statement, &[&ids]).await.doing(READING)?;
    Ok(read_all(&rows))
}

pub(super) fn read_all(rows: &[Row]) -> Vec<Circuit> {
    stored::read_all(rows.iter().map(|row| {
        let place = || format!("circuits row {}", row.get::<_, Uuid>(0));
        rows::circuit(row).map_err(|cause| stored::corrupt(place(), cause))
    }))
}

/// The circuit of this id.
pub(super) async fn get(client: &impl GenericClient, id: CircuitId) -> Result<Option<Circuit>> {
    row(client, id).await?.map(CircuitRow::read).transpose()
}

async fn row(client: &impl GenericClient, id: CircuitId) -> Result<Option<CircuitRow>> {
    let sql = format!("SELECT {} FROM circuits c WHERE c.id = $1", rows::CIRCUIT);
    let statement = client.prepare_cached(&sql).await.doing(READING)?;
    let row = client
        .query_opt(&statement, &[&id.0])
        .await
        .doing(READING)?;
    row.map(|row| {
        rows::circuit(&row).map_err(|cause| stored::corrupt(stored::circuit_place(id), cause))
    })
    .transpose()
}

/// A worker's circuits and generation.
pub(super) async fn of_worker(
    tx: &Transaction<'_>,
    id: WorkerId,
) -> Result<Option<WorkerCircuits>> {
    if workers::get(tx, id).await?.is_none() {
        return Ok(None);
    }
    let sql = format!(
        "SELECT {} FROM circuits c WHERE c.worker = $1 ORDER BY c.created_at, c.id",
        rows::CIRCUIT
    );
    let statement = tx.prepare_cached(&sql).await.doing(READING)?;
    // Row by row: a worker may hold tens of thousands, and each is there twice while it is read.
    let rows = tx.query_raw(&statement, [&id.0]).await.doing(READING)?;
    let mut rows = std::pin::pin!(rows);
    let mut circuits = Vec::new();
    while let Some(row) = rows.try_next().await.doing(READING)? {
        circuits.extend(read_all(std::slice::from_ref(&row)));
    }
    Ok(Some(WorkerCircuits {
        circuits,
        generation: events::generation(tx, id).await?,
    }))
}

/// The slots that a worker's circuits hold, and its generation.
pub(super) async fn held_slots(tx: &Transaction<'_>, id: WorkerId) -> Result<Option<HeldSlots>> {
    const DOING: &str = "listing slots";
    if workers::get(tx, id).await?.is_none() {
        return Ok(None);
    }
    let statement = tx
        .prepare_cached(
            "SELECT id, port, subdomain FROM circuits WHERE worker = $1 ORDER BY created_at, id",
        )
        .await
        .doing(DOING)?;
    let rows = tx.query(&statement, &[&id.0]).await.doing(DOING)?;
    let slot = |row: &Row| HeldSlot {
        circuit: CircuitId(row.get(0)),
        port: row
            .get::<_, Option<i32>>(1)
            .and_then(|port| u16::try_from(port).ok()),
        subdomain: row.get(2),
    };
    Ok(Some(HeldSlots {
        slots: rows.iter().map(slot).collect(),
        generation: events::generation(tx, id).await?,
    }))
}
