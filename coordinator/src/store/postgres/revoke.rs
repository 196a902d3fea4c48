//! Grants of a circuit that count no more, in PostgreSQL.

use deadpool_postgres::Transaction;
use patchbay_common::event::Change;
use patchbay_common::grant::Revocation;
use patchbay_common::id::CircuitId;
use patchbay_common::timestamp;

use super::{audit, circuits, events, workers};
use crate::store::audit::Record;
use crate::store::error::Doing;
use crate::store::{Action, Cause, Rerouted, Result, StoreError, stored};

const DOING: &str = "revoking a grant";

/// Adds to the circuit's list, and logs that it is longer.
pub(super) async fn revoke(
    tx: &Transaction<'_>,
    id: CircuitId,
    revocation: &Revocation,
    cause: &Cause,
) -> Result<Option<Rerouted>> {
    let locked = "c.id = ANY($1) FOR UPDATE OF c";
    let found = circuits::select(tx, locked, &[id.0]).await?;
    let Some(mut circuit) = found.into_iter().next() else {
        return Ok(None);
    };
    let now = timestamp::now();
    let list = stored::revoked(&mut circuit, revocation, now)?;
    let statement = tx
        .prepare_cached("UPDATE circuits SET revocations = $2, updated_at = $3 WHERE id = $1")
        .await
        .doing(DOING)?;
    tx.execute(&statement, &[&id.0, &list, &now])
        .await
        .doing(DOING)?;
    let worker = circuit.worker;
    let worker = workers::get(tx, worker).await?;
    let worker = worker.ok_or(StoreError::NoSuchWorker(circuit.worker))?;
    let record = Record::new(Action::Revoked, &circuit, &worker.authority);
    audit::write(tx, &[record], cause).await?;
    let request_id = cause.request_id.as_deref();
    let change = Change::RouteUpdated(Box::new(circuit.clone()), circuit.route_info.clone());
    let generation = events::log(tx, worker.id, &worker.authority, change, request_id).await?;
    Ok(Some(Rerouted {
        circuit,
        authority: worker.authority,
        generation,
    }))
}
