//! Uses of circuits, as workers without Redis tell them, in SQLite.

use chrono::{DateTime, TimeDelta, Utc};
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::timestamp;
use patchbay_common::use_report::{CircuitUse, UseReport};
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::rows::{self, micros};
use super::workers;
use crate::store::Result;
use crate::store::error::Doing;

const NOTING: &str = "noting uses of circuits";
const READING: &str = "reading uses of circuits";

/// Notes a report; false if there is no such worker.
pub(super) fn note(
    tx: &Transaction<'_>,
    worker: WorkerId,
    node: Option<&str>,
    report: &UseReport,
) -> Result<bool> {
    if workers::get(tx, worker)?.is_none() {
        return Ok(false);
    }
    let now = timestamp::now();
    let hour = TimeDelta::hours(1).num_microseconds().unwrap_or(i64::MAX);
    let mut statement = tx
        .prepare_cached(
            "INSERT INTO patchbay_uses (circuit, last_use, requests) \
             SELECT c.id, ?2, ?3 FROM circuits c WHERE c.id = ?1 \
             ON CONFLICT (circuit) DO UPDATE SET \
             requests = excluded.requests + CASE \
               WHEN excluded.last_use - last_use > ?4 THEN 0 ELSE requests END, \
             last_use = max(last_use, excluded.last_use)",
        )
        .doing(NOTING)?;
    for one in report.merged(now) {
        let requests = i64::try_from(one.requests).unwrap_or(i64::MAX);
        statement
            .execute(params![
                one.circuit.to_string(),
                micros(one.last),
                requests,
                hour
            ])
            .doing(NOTING)?;
    }
    if report.complete {
        tx.prepare_cached(
            "UPDATE patchbay_nodes SET uses_told_at = ?3 WHERE worker = ?1 AND node_id = ?2",
        )
        .and_then(|mut statement| {
            let node = node.unwrap_or_default();
            statement.execute(params![worker.to_string(), node, micros(now)])
        })
        .doing(NOTING)?;
    }
    Ok(true)
}

/// What is known of these circuits' use.
pub(super) fn of(tx: &Transaction<'_>, ids: &[CircuitId]) -> Result<Vec<CircuitUse>> {
    let mut statement = tx
        .prepare_cached("SELECT last_use, requests FROM patchbay_uses WHERE circuit = ?1")
        .doing(READING)?;
    let mut uses = Vec::new();
    for id in ids {
        let found = statement
            .query_row([id.to_string()], |row| {
                Ok(CircuitUse {
                    circuit: *id,
                    last: rows::time(row, 0)?,
                    requests: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
                })
            })
            .optional();
        uses.extend(found.doing(READING)?);
    }
    Ok(uses)
}

/// The workers whose every node has told all it knew since.
pub(super) fn told_all(tx: &Transaction<'_>, since: DateTime<Utc>) -> Result<Vec<WorkerId>> {
    tx.prepare_cached(
        "SELECT n.worker FROM patchbay_nodes n JOIN workers w ON w.id = n.worker \
         GROUP BY n.worker, w.nodes HAVING count(*) >= w.nodes \
         AND min(coalesce(n.uses_told_at, 0)) >= ?1",
    )
    .and_then(|mut statement| {
        let worker = |row: &rusqlite::Row<'_>| Ok(WorkerId(rows::uuid(row, 0)?));
        statement.query_map([micros(since)], worker)?.collect()
    })
    .doing(READING)
}
