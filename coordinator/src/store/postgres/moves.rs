//! Circuits that go from a lost worker to another, in PostgreSQL.

use deadpool_postgres::Transaction;
use patchbay_common::circuit::Circuit;
use patchbay_common::event::Change;
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::timestamp;
use patchbay_common::worker::{Worker, WorkerStatus};
use uuid::Uuid;

use super::{audit, circuits, events, rows, workers};
use crate::store::audit::Record;
use crate::store::error::Doing;
use crate::store::{Action, Cause, Closed, Moved, Opened, Result};

const DOING: &str = "moving circuits";

/// Moves circuits, each to the slot it has.
pub(super) async fn carry_over(
    tx: &Transaction<'_>,
    from: WorkerId,
    to: WorkerId,
    ids: &[CircuitId],
    cause: &Cause,
) -> Result<Vec<Moved>> {
    let Some((old, mut new)) = both(tx, from, to).await? else {
        return Ok(Vec::new());
    };
    let moved = rewrite(tx, from, to, ids).await?;
    if moved.is_empty() {
        return Ok(Vec::new());
    }
    let count = i32::try_from(moved.len()).unwrap_or(i32::MAX);
    circuits::occupy(tx, from, -count).await?;
    new.occupied_slots = circuits::occupy(tx, to, count).await?;
    let record = |circuit| Record {
        from: Some((from, &old.authority)),
        ..Record::new(Action::Moved, circuit, &new.authority)
    };
    let records: Vec<Record<'_>> = moved.iter().map(record).collect();
    audit::write(tx, &records, cause).await?;

    let gone: Vec<Circuit> = moved
        .iter()
        .map(|circuit| Circuit {
            worker: from,
            ..circuit.clone()
        })
        .collect();
    let each = |circuits: &[Circuit], change: fn(Vec<Circuit>) -> Change| -> Vec<Change> {
        circuits.iter().map(|c| change(vec![c.clone()])).collect()
    };
    let (left, arrived) = (each(&gone, Change::Removed), each(&moved, Change::Created));
    let request_id = cause.request_id.as_deref();
    // The order of locks is the order of ids here too.
    let (left, arrived) = if from < to {
        let left = events::log_all(tx, from, &old.authority, left, request_id).await?;
        let arrived = events::log_all(tx, to, &new.authority, arrived, request_id).await?;
        (left, arrived)
    } else {
        let arrived = events::log_all(tx, to, &new.authority, arrived, request_id).await?;
        let left = events::log_all(tx, from, &old.authority, left, request_id).await?;
        (left, arrived)
    };
    let first = |last: u64| last.saturating_sub(moved.len() as u64) + 1;
    let generations = (first(left)..).zip(first(arrived)..);
    let pairs = gone.into_iter().zip(moved).zip(generations);
    Ok(pairs
        .map(|((gone, circuit), (left, arrived))| Moved {
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
        })
        .collect())
}

/// Both workers, locked in the order of their ids, if one is lost and the other alive.
async fn both(
    tx: &Transaction<'_>,
    from: WorkerId,
    to: WorkerId,
) -> Result<Option<(Worker, Worker)>> {
    let (first, second) = (from.min(to), from.max(to));
    let first = workers::lock(tx, first).await?;
    let second = workers::lock(tx, second).await?;
    let (old, new) = if from < to {
        (first, second)
    } else {
        (second, first)
    };
    let fit = |(old, new): &(Worker, Worker)| {
        old.status == WorkerStatus::Lost && new.status == WorkerStatus::Alive
    };
    Ok(old.zip(new).filter(fit))
}

/// Writes the new worker into the rows; answers with the circuits it wrote.
async fn rewrite(
    tx: &Transaction<'_>,
    from: WorkerId,
    to: WorkerId,
    ids: &[CircuitId],
) -> Result<Vec<Circuit>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let sql = format!(
        "UPDATE circuits c SET worker = $2, updated_at = $4 \
         WHERE c.id = ANY($3) AND c.worker = $1 AND NOT EXISTS (SELECT 1 FROM circuits o \
         WHERE o.worker = $2 AND (o.port = c.port OR o.subdomain = c.subdomain)) RETURNING {}",
        rows::CIRCUIT
    );
    let statement = tx.prepare_cached(&sql).await.doing(DOING)?;
    let now = timestamp::now();
    let rows = tx
        .query(&statement, &[&from.0, &to.0, &ids, &now])
        .await
        .doing(DOING)?;
    let read = |row| rows::circuit(row).doing(DOING)?.read();
    rows.iter().map(read).collect()
}
