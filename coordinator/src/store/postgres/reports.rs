//! Reports of routes and figures in PostgreSQL.

use chrono::{DateTime, TimeDelta, Utc};
use deadpool_postgres::{GenericClient, Transaction};
use patchbay_common::circuit::Circuit;
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::route_report::RouteReport;
use patchbay_common::timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::circuits;
use crate::store::error::Doing;
use crate::store::{Figures, NodeReport, Result, stored};

/// A row is of no more use to anyone.
const STALE: TimeDelta = TimeDelta::hours(1);

/// Replaces what a node said; false if there is no such worker.
pub(super) async fn keep(
    tx: &Transaction<'_>,
    worker: WorkerId,
    node: &str,
    report: &RouteReport,
) -> Result<bool> {
    const DOING: &str = "keeping a report of routes";
    let report = stored::report(report)?;
    let now = timestamp::now();
    let statement = tx
        .prepare_cached(
            "INSERT INTO patchbay_route_reports (worker, node, reported_at, report) \
             SELECT w.id, $2, $3, $4 FROM workers w WHERE w.id = $1 ON CONFLICT (worker, node) \
             DO UPDATE SET reported_at = excluded.reported_at, report = excluded.report",
        )
        .await
        .doing(DOING)?;
    let kept = tx
        .execute(&statement, &[&worker.0, &node, &now, &report])
        .await
        .doing(DOING)?;
    let statement = tx
        .prepare_cached("DELETE FROM patchbay_route_reports WHERE worker = $1 AND reported_at < $2")
        .await
        .doing(DOING)?;
    tx.execute(&statement, &[&worker.0, &(now - STALE)])
        .await
        .doing(DOING)?;
    Ok(kept > 0)
}

/// What nodes said since.
pub(super) async fn since(
    client: &impl GenericClient,
    since: DateTime<Utc>,
) -> Result<Vec<NodeReport>> {
    const DOING: &str = "reading reports of routes";
    let statement = client
        .prepare_cached(
            "SELECT worker, node, reported_at, report FROM patchbay_route_reports \
             WHERE reported_at >= $1 ORDER BY worker, node",
        )
        .await
        .doing(DOING)?;
    let rows = client.query(&statement, &[&since]).await.doing(DOING)?;
    rows.iter()
        .map(|row| {
            Ok(NodeReport {
                worker: row.try_get::<_, Uuid>(0).doing(DOING)?.into(),
                node: row.try_get(1).doing(DOING)?,
                reported_at: row.try_get(2).doing(DOING)?,
                report: stored::read_report(row.try_get::<_, Value>(3).doing(DOING)?)?,
            })
        })
        .collect()
}

/// What is counted.
pub(super) async fn figures(tx: &Transaction<'_>) -> Result<Figures> {
    const DOING: &str = "counting circuits";
    let statement = tx
        .prepare_cached(
            "SELECT worker, app_mode::text, protocol::text, count(*) FROM circuits \
             GROUP BY worker, app_mode, protocol ORDER BY 1, 2, 3",
        )
        .await
        .doing(DOING)?;
    let rows = tx.query(&statement, &[]).await.doing(DOING)?;
    let circuits = rows
        .iter()
        .map(|row| {
            stored::count(
                row.try_get(0).doing(DOING)?,
                row.try_get(1).doing(DOING)?,
                row.try_get(2).doing(DOING)?,
                row.try_get(3).doing(DOING)?,
            )
        })
        .collect::<Result<_>>()?;
    let statement = tx
        .prepare_cached("SELECT count(*) FROM patchbay_events WHERE published_at IS NULL")
        .await
        .doing(DOING)?;
    let waiting = tx.query_one(&statement, &[]).await.doing(DOING)?;
    Ok(Figures {
        circuits,
        outbox: u64::try_from(waiting.get::<_, i64>(0)).unwrap_or(0),
    })
}

/// Circuits of endpoints, by their ids.
pub(super) async fn endpoint_page(
    client: &impl GenericClient,
    after: Option<CircuitId>,
    limit: usize,
) -> Result<Vec<Circuit>> {
    let wanted = format!(
        "c.endpoint_id IS NOT NULL AND c.id > ($1::uuid[])[1] ORDER BY c.id LIMIT {}",
        stored::limit_column(limit)
    );
    let after = after.map_or(Uuid::nil(), |id| id.0);
    circuits::select(client, &wanted, &[after]).await
}
