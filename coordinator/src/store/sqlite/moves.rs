//! Circuits that go from a lost worker to another, in SQLite.

use patchbay_common::circuit::Circuit;
use patchbay_common::event::Change;
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::timestamp;
use patchbay_common::worker::{Worker, WorkerStatus};
use rusqlite::{Transaction, params};

use super::rows::micros;
use super::{audit, circuits, events, workers};
use crate::store::audit::Record;
use crate::store::error::Doing;
use crate::store::{Action, Cause, Closed, Moved, Opened, Result};

const DOING: &str = "moving circuits";

/// Moves circuits, each to the slot it has.
pub(super) fn carry_over(
    tx: &Transaction<'_>,
    from: WorkerId,
    to: WorkerId,
    ids: &[CircuitId],
    cause: &Cause,
) -> Result<Vec<Moved>> {
    let (old, new) = (workers::get(tx, from)?, workers::get(tx, to)?);
    let fit = |(old, new): &(Worker, Worker)| {
        old.status == WorkerStatus::Lost && new.status == WorkerStatus::Alive
    };
    let Some((old, mut new)) = old.zip(new).filter(fit) else {
        return Ok(Vec::new());
    };
    let mut moved = Vec::new();
    for id in ids {
        if !rewrite(tx, from, to, *id)? {
            continue;
        }
        let Some(circuit) = circuits::get(tx, *id)? else {
            continue;
        };
        new.occupied_slots = circuits::occupy(tx, to, 1)?;
        circuits::occupy(tx, from, -1)?;
        let record = Record {
            from: Some((from, &old.authority)),
            ..Record::new(Action::Moved, &circuit, &new.authority)
        };
        audit::write(tx, &record, cause)?;
        let gone = Circuit {
            worker: from,
            ..circuit.clone()
        };
        let request_id = cause.request_id.as_deref();
        let removed = Change::Removed(vec![gone.clone()]);
        let left = events::log(tx, from, &old.authority, removed, request_id)?;
        let created = Change::Created(vec![circuit.clone()]);
        let arrived = events::log(tx, to, &new.authority, created, request_id)?;
        moved.push(Moved {
            left: Closed {
                circuit: gone,
                authority: old.authority.clone(),
                generation: left,
            },
            arrived: Opened {
                circuit,
                worker: new.clone(),
                generation: arrived,
                reused: false,
            },
        });
    }
    Ok(moved)
}

/// Writes the new worker into the row; false if the slot is taken there.
fn rewrite(tx: &Transaction<'_>, from: WorkerId, to: WorkerId, id: CircuitId) -> Result<bool> {
    tx.prepare_cached(
        "UPDATE circuits SET worker = ?2, updated_at = ?4 WHERE id = ?3 AND worker = ?1 \
         AND NOT EXISTS (SELECT 1 FROM circuits o WHERE o.worker = ?2 \
         AND (o.port = circuits.port OR o.subdomain = circuits.subdomain))",
    )
    .and_then(|mut statement| {
        let now = micros(timestamp::now());
        statement.execute(params![
            from.to_string(),
            to.to_string(),
            id.to_string(),
            now
        ])
    })
    .map(|written| written > 0)
    .doing(DOING)
}
