//! Circuits in SQLite.

use chrono::{DateTime, Utc};
use patchbay_common::circuit::{Circuit, Slot};
use patchbay_common::event::Change;
use patchbay_common::id::{CircuitId, SessionId, WorkerId};
use patchbay_common::timestamp;
use patchbay_common::worker::Worker;
use rusqlite::{OptionalExtension, Params, Transaction, params};
use serde_json::{Value, json};

use super::rows::{self, micros};
use super::{allocate, audit, endpoints, events, workers};
use crate::store::audit::Record;
use crate::store::error::Doing;
use crate::store::stored::{self, CircuitRow};
use crate::store::{
    Action, Cause, Closed, HeldSlot, HeldSlots, LongOpen, NewCircuit, Opened, Result, Reuse,
    StoreError, WorkerCircuits,
};

const OPENING: &str = "opening a circuit";
const CLOSING: &str = "closing a circuit";
const READING: &str = "reading circuits";

/// Opens a circuit, or answers with one to share.
pub(super) fn open(tx: &Transaction<'_>, new: &NewCircuit) -> Result<Opened> {
    if let Some(reuse) = &new.reuse
        && let Some(shared) = reusable(tx, reuse)?
    {
        return Ok(shared);
    }
    let mut worker = workers::get(tx, new.worker)?.ok_or(StoreError::NoSuchWorker(new.worker))?;
    let slot = allocate::slot(tx, new, &worker)?;
    let mut circuit = stored::born(new, &slot, timestamp::now());
    if let Some(endpoint) = new.endpoint_id {
        circuit.health_check = endpoints::check_of(tx, endpoint)?;
    }
    insert(tx, &circuit, &worker, &slot)?;
    worker.occupied_slots = occupy(tx, worker.id, 1)?;
    let record = Record::new(Action::Opened, &circuit, &worker.authority);
    audit::write(tx, &record, &new.cause())?;
    let generation = events::log(
        tx,
        worker.id,
        &worker.authority,
        Change::Created(vec![circuit.clone()]),
        new.origin_request_id.as_deref(),
    )?;
    Ok(Opened {
        circuit,
        worker,
        generation,
        reused: false,
    })
}

/// Keeps the counter of a worker's slots, which never falls below zero; answers with it.
pub(super) fn occupy(tx: &Transaction<'_>, worker: WorkerId, change: i32) -> Result<i32> {
    tx.prepare_cached(
        "UPDATE workers SET occupied_slots = max(occupied_slots + ?2, 0) WHERE id = ?1 \
         RETURNING occupied_slots",
    )
    .and_then(|mut statement| {
        statement.query_row(params![worker.to_string(), change], |row| row.get(0))
    })
    .doing("counting slots")
}

fn insert(tx: &Transaction<'_>, circuit: &Circuit, worker: &Worker, slot: &Slot) -> Result<()> {
    let id = circuit.id.to_string();
    let domain = match slot {
        Slot::Port(_) => None,
        Slot::Subdomain(_) => worker.wildcard_domain.as_ref(),
    };
    let routes = stored::route_info(circuit)?.to_string();
    let outcome = tx
        .prepare_cached(
            "INSERT INTO circuits (id, app, protocol, worker, app_mode, frontend_mode, port, \
             subdomain, slot_domain, envs, arguments, open_to_public, allowed_client_ips, user_id, \
             endpoint_id, runtime_variant, session_ids, route_info, created_at, updated_at, \
             origin_request_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, \
             ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                id,
                circuit.app,
                circuit.protocol.label(),
                circuit.worker.to_string(),
                circuit.app_mode.label(),
                circuit.frontend_mode.label(),
                circuit.port,
                circuit.subdomain,
                domain.map(|domain| domain.to_ascii_lowercase()),
                Value::Object(circuit.envs.clone()).to_string(),
                circuit.arguments,
                circuit.open_to_public,
                circuit.allowed_client_ips,
                circuit.user_id.map(|id| id.to_string()),
                circuit.endpoint_id.map(|id| id.to_string()),
                circuit.runtime_variant,
                json!(circuit.session_ids).to_string(),
                routes,
                micros(circuit.created_at),
                micros(circuit.updated_at),
                circuit.origin_request_id,
            ])
        });
    outcome.map_err(|error| taken(error, worker.id, slot))?;
    for session in &circuit.session_ids {
        tx.prepare_cached(
            "INSERT INTO circuit_sessions (session, circuit) VALUES (?1, ?2) \
             ON CONFLICT DO NOTHING",
        )
        .and_then(|mut statement| statement.execute([session.to_string(), id.clone()]))
        .doing(OPENING)?;
    }
    Ok(())
}

/// A breach of a slot's unique index is a taken slot.
fn taken(error: rusqlite::Error, worker: WorkerId, slot: &Slot) -> StoreError {
    let breached = |column: &str| error.to_string().contains(column);
    match slot {
        Slot::Port(port) if breached("circuits.port") => StoreError::PortTaken {
            worker,
            port: *port,
        },
        Slot::Subdomain(name) if breached("circuits.subdomain") => StoreError::SubdomainTaken {
            subdomain: name.clone(),
        },
        _ => StoreError::Failed {
            doing: OPENING,
            cause: Box::new(error),
        },
    }
}

/// The oldest circuit that can be shared.
pub(super) fn reusable(tx: &Transaction<'_>, reuse: &Reuse) -> Result<Option<Opened>> {
    let row = tx
        .prepare_cached(&format!(
            "SELECT {} FROM circuit_sessions s JOIN circuits c ON c.id = s.circuit \
             JOIN workers w ON w.id = c.worker \
             WHERE s.session = ?1 AND c.app IS ?2 AND c.protocol = ?3 AND c.open_to_public = ?4 \
             AND c.allowed_client_ips IS ?5 AND w.status = 'ALIVE' \
             ORDER BY c.created_at, c.id LIMIT 1",
            rows::CIRCUIT
        ))
        .and_then(|mut statement| {
            statement
                .query_row(
                    params![
                        reuse.session.to_string(),
                        reuse.app,
                        reuse.protocol.carried().label(),
                        reuse.open_to_public,
                        reuse.allowed_client_ips,
                    ],
                    rows::circuit,
                )
                .optional()
        })
        .doing("looking for a circuit to share")?;
    let Some(row) = row else { return Ok(None) };
    let circuit = row.read()?;
    let worker =
        workers::get(tx, circuit.worker)?.ok_or(StoreError::NoSuchWorker(circuit.worker))?;
    let generation = events::generation(tx, worker.id)?;
    Ok(Some(Opened {
        circuit,
        worker,
        generation,
        reused: true,
    }))
}

/// Closes a circuit.
pub(super) fn close(tx: &Transaction<'_>, id: CircuitId, cause: &Cause) -> Result<Option<Closed>> {
    let Some(row) = row(tx, id)? else {
        return Ok(None);
    };
    let circuit = row.read_for_closing()?;
    let worker =
        workers::get(tx, circuit.worker)?.ok_or(StoreError::NoSuchWorker(circuit.worker))?;
    tx.execute("DELETE FROM circuits WHERE id = ?1", [id.to_string()])
        .doing(CLOSING)?;
    occupy(tx, worker.id, -1)?;
    let record = Record::new(Action::Closed, &circuit, &worker.authority);
    audit::write(tx, &record, cause)?;
    let change = Change::Removed(vec![circuit.clone()]);
    let request_id = cause.request_id.as_deref();
    let generation = events::log(tx, worker.id, &worker.authority, change, request_id)?;
    Ok(Some(Closed {
        circuit,
        authority: worker.authority,
        generation,
    }))
}

/// Closes circuits; the order of those that exist is kept.
pub(super) fn close_all(
    tx: &Transaction<'_>,
    ids: &[CircuitId],
    cause: &Cause,
) -> Result<Vec<Closed>> {
    let closed = ids.iter().map(|id| close(tx, *id, cause).transpose());
    closed.flatten().collect()
}

/// A session's circuits, oldest first.
pub(super) fn of_session(tx: &Transaction<'_>, session: SessionId) -> Result<Vec<Circuit>> {
    let wanted = "c.id IN (SELECT circuit FROM circuit_sessions WHERE session = ?1)";
    select(tx, wanted, &session.to_string())
}

/// A page of people's circuits that were opened before a moment, by id.
pub(super) fn long_open(
    tx: &Transaction<'_>,
    opened_before: DateTime<Utc>,
    after: Option<CircuitId>,
    limit: usize,
) -> Result<Vec<LongOpen>> {
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    tx.prepare_cached(
        "SELECT id, app, created_at, worker FROM circuits \
         WHERE app_mode = 'INTERACTIVE' AND protocol IN ('HTTP', 'TCP') AND created_at < ?1 AND id > ?2 ORDER BY id LIMIT ?3",
    )
    .and_then(|mut statement| {
        let wanted = params![
            micros(opened_before),
            after,
            i64::try_from(limit).unwrap_or(i64::MAX)
        ];
        statement
            .query_map(wanted, |row| {
                Ok(LongOpen {
                    id: CircuitId(rows::uuid(row, 0)?),
                    app: row.get(1)?,
                    opened: rows::time(row, 2)?,
                    worker: WorkerId(rows::uuid(row, 3)?),
                })
            })?
            .collect()
    })
    .doing(READING)
}

/// The circuits that a condition on `?1` selects, oldest first.
pub(super) fn select(tx: &Transaction<'_>, wanted: &str, value: &str) -> Result<Vec<Circuit>> {
    let sql = format!(
        "SELECT {} FROM circuits c WHERE {wanted} ORDER BY c.created_at, c.id",
        rows::CIRCUIT
    );
    read_where(tx, &sql, [value])
}

/// The circuits that a query selects, as far as they can be read.
pub(super) fn read_where(
    tx: &Transaction<'_>,
    sql: &str,
    params: impl Params,
) -> Result<Vec<Circuit>> {
    let rows: Vec<Result<CircuitRow>> = tx
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement
                .query_map(params, |row| {
                    let name: String = row.get(0)?;
                    let place = || format!("circuits row {name}");
                    Ok(rows::circuit(row).map_err(|cause| stored::corrupt(place(), cause)))
                })?
                .collect()
        })
        .doing(READING)?;
    Ok(stored::read_all(rows))
}

/// The circuit of this id.
pub(super) fn get(tx: &Transaction<'_>, id: CircuitId) -> Result<Option<Circuit>> {
    row(tx, id)?.map(CircuitRow::read).transpose()
}

fn row(tx: &Transaction<'_>, id: CircuitId) -> Result<Option<CircuitRow>> {
    let sql = format!("SELECT {} FROM circuits c WHERE c.id = ?1", rows::CIRCUIT);
    tx.prepare_cached(&sql)
        .and_then(|mut statement| {
            statement
                .query_row([id.to_string()], |row| Ok(rows::circuit(row)))
                .optional()
        })
        .doing(READING)?
        .map(|row| row.map_err(|cause| stored::corrupt(stored::circuit_place(id), cause)))
        .transpose()
}

/// A worker's circuits and generation.
pub(super) fn of_worker(tx: &Transaction<'_>, id: WorkerId) -> Result<Option<WorkerCircuits>> {
    if workers::get(tx, id)?.is_none() {
        return Ok(None);
    }
    Ok(Some(WorkerCircuits {
        circuits: select(tx, "c.worker = ?1", &id.to_string())?,
        generation: events::generation(tx, id)?,
    }))
}

/// The slots that a worker's circuits hold, and its generation.
pub(super) fn held_slots(tx: &Transaction<'_>, id: WorkerId) -> Result<Option<HeldSlots>> {
    if workers::get(tx, id)?.is_none() {
        return Ok(None);
    }
    let slots = tx
        .prepare_cached(
            "SELECT id, port, subdomain FROM circuits WHERE worker = ?1 ORDER BY created_at, id",
        )
        .and_then(|mut statement| {
            let slot = |row: &rusqlite::Row<'_>| {
                Ok(HeldSlot {
                    circuit: CircuitId(rows::uuid(row, 0)?),
                    port: row.get(1)?,
                    subdomain: row.get(2)?,
                })
            };
            statement.query_map([id.to_string()], slot)?.collect()
        })
        .doing("listing slots")?;
    Ok(Some(HeldSlots {
        slots,
        generation: events::generation(tx, id)?,
    }))
}
