//! Reports of routes and figures in SQLite.

use chrono::{DateTime, TimeDelta, Utc};
use patchbay_common::circuit::Circuit;
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::route_report::RouteReport;
use patchbay_common::timestamp;
use rusqlite::{Transaction, params};
use serde_json::Value;
use uuid::Uuid;

use super::circuits;
use super::rows::{self, micros};
use crate::store::error::Doing;
use crate::store::{Figures, NodeReport, Result, stored};

/// A row is of no more use to anyone.
const STALE: TimeDelta = TimeDelta::hours(1);

/// Replaces what a node said; false if there is no such worker.
pub(super) fn keep(
    tx: &Transaction<'_>,
    worker: WorkerId,
    node: &str,
    report: &RouteReport,
) -> Result<bool> {
    const DOING: &str = "keeping a report of routes";
    let report = stored::report(report)?.to_string();
    let now = timestamp::now();
    let worker = worker.to_string();
    let kept = tx
        .prepare_cached(
            "INSERT INTO patchbay_route_reports (worker, node, reported_at, report) \
             SELECT w.id, ?2, ?3, ?4 FROM workers w WHERE w.id = ?1 ON CONFLICT (worker, node) \
             DO UPDATE SET reported_at = excluded.reported_at, report = excluded.report",
        )
        .and_then(|mut statement| statement.execute(params![worker, node, micros(now), report]))
        .doing(DOING)?;
    tx.prepare_cached("DELETE FROM patchbay_route_reports WHERE worker = ?1 AND reported_at < ?2")
        .and_then(|mut statement| statement.execute(params![worker, micros(now - STALE)]))
        .doing(DOING)?;
    Ok(kept > 0)
}

/// What nodes said since.
pub(super) fn since(tx: &Transaction<'_>, since: DateTime<Utc>) -> Result<Vec<NodeReport>> {
    const DOING: &str = "reading reports of routes";
    let found: Vec<(Uuid, String, DateTime<Utc>, Value)> = tx
        .prepare_cached(
            "SELECT worker, node, reported_at, report FROM patchbay_route_reports \
             WHERE reported_at >= ?1 ORDER BY worker, node",
        )
        .and_then(|mut statement| {
            let row = |row: &rusqlite::Row<'_>| {
                let at = rows::time(row, 2)?;
                Ok((rows::uuid(row, 0)?, row.get(1)?, at, rows::json(row, 3)?))
            };
            statement.query_map([micros(since)], row)?.collect()
        })
        .doing(DOING)?;
    found
        .into_iter()
        .map(|(worker, node, reported_at, report)| {
            Ok(NodeReport {
                worker: worker.into(),
                node,
                reported_at,
                report: stored::read_report(report)?,
            })
        })
        .collect()
}

/// What is counted.
pub(super) fn figures(tx: &Transaction<'_>) -> Result<Figures> {
    const DOING: &str = "counting circuits";
    let found: Vec<(Uuid, String, String, i64)> = tx
        .prepare_cached(
            "SELECT worker, app_mode, protocol, count(*) FROM circuits \
             GROUP BY worker, app_mode, protocol ORDER BY 1, 2, 3",
        )
        .and_then(|mut statement| {
            let row = |row: &rusqlite::Row<'_>| {
                Ok((rows::uuid(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            };
            statement.query_map([], row)?.collect()
        })
        .doing(DOING)?;
    let circuits = found
        .into_iter()
        .map(|(worker, mode, protocol, count)| stored::count(worker, &mode, &protocol, count))
        .collect::<Result<_>>()?;
    let waiting: i64 = tx
        .query_row(
            "SELECT count(*) FROM patchbay_events WHERE published_at IS NULL",
            [],
            |row| row.get(0),
        )
        .doing(DOING)?;
    Ok(Figures {
        circuits,
        outbox: u64::try_from(waiting).unwrap_or(0),
    })
}

/// Circuits of endpoints, by their ids.
pub(super) fn endpoint_page(
    tx: &Transaction<'_>,
    after: Option<CircuitId>,
    limit: usize,
) -> Result<Vec<Circuit>> {
    let wanted = format!(
        "c.id IN (SELECT p.id FROM circuits p WHERE p.endpoint_id IS NOT NULL AND p.id > ?1 \
         ORDER BY p.id LIMIT {})",
        stored::limit_column(limit)
    );
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    let mut page = circuits::select(tx, &wanted, &after)?;
    page.sort_by_key(|circuit| circuit.id);
    Ok(page)
}
