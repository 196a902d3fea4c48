//! Grants of a circuit that count no more, in SQLite.

use patchbay_common::event::Change;
use patchbay_common::grant::Revocation;
use patchbay_common::id::CircuitId;
use patchbay_common::timestamp;
use rusqlite::{Transaction, params};

use super::rows::micros;
use super::{audit, circuits, events, workers};
use crate::store::audit::Record;
use crate::store::error::Doing;
use crate::store::{Action, Cause, Rerouted, Result, StoreError, stored};

/// Adds to the circuit's list, and logs that it is longer.
pub(super) fn revoke(
    tx: &Transaction<'_>,
    id: CircuitId,
    revocation: &Revocation,
    cause: &Cause,
) -> Result<Option<Rerouted>> {
    let Some(mut circuit) = circuits::get(tx, id)? else {
        return Ok(None);
    };
    let now = timestamp::now();
    let list = stored::revoked(&mut circuit, revocation, now)?;
    tx.prepare_cached("UPDATE circuits SET revocations = ?2, updated_at = ?3 WHERE id = ?1")
        .and_then(|mut statement| statement.execute(params![id.to_string(), list, micros(now)]))
        .doing("revoking a grant")?;
    let worker = circuit.worker;
    let worker = workers::get(tx, worker)?.ok_or(StoreError::NoSuchWorker(worker))?;
    let record = Record::new(Action::Revoked, &circuit, &worker.authority);
    audit::write(tx, &record, cause)?;
    let request_id = cause.request_id.as_deref();
    let change = Change::RouteUpdated(Box::new(circuit.clone()), circuit.route_info.clone());
    let generation = events::log(tx, worker.id, &worker.authority, change, request_id)?;
    Ok(Some(Rerouted {
        circuit,
        authority: worker.authority,
        generation,
    }))
}
