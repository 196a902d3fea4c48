//! Uses of circuits, as workers without Redis tell them, in PostgreSQL.

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Transaction};
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::timestamp;
use patchbay_common::use_report::{CircuitUse, UseReport};
use uuid::Uuid;

use super::workers;
use crate::store::Result;
use crate::store::error::Doing;

const NOTING: &str = "noting uses of circuits";
const READING: &str = "reading uses of circuits";

/// Notes a report; false if there is no such worker.
pub(super) async fn note(
    tx: &Transaction<'_>,
    worker: WorkerId,
    node: Option<&str>,
    report: &UseReport,
) -> Result<bool> {
    if workers::get(tx, worker).await?.is_none() {
        return Ok(false);
    }
    let now = timestamp::now();
    let (mut ids, mut lasts, mut requests) = (Vec::new(), Vec::new(), Vec::new());
    for one in report.merged(now) {
        ids.push(one.circuit.0);
        lasts.push(one.last);
        requests.push(i64::try_from(one.requests).unwrap_or(i64::MAX));
    }
    // The circuits are locked in the order of their ids against being closed meanwhile.
    let statement = tx
        .prepare_cached(
            "WITH there AS (SELECT n.id, n.last_use, n.requests \
               FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[]) \
                 AS n (id, last_use, requests) \
               JOIN circuits c ON c.id = n.id ORDER BY c.id FOR KEY SHARE OF c) \
             INSERT INTO patchbay_uses AS u (circuit, last_use, requests) \
             SELECT id, last_use, requests FROM there ON CONFLICT (circuit) DO UPDATE SET \
             last_use = greatest(u.last_use, excluded.last_use), \
             requests = excluded.requests + CASE \
               WHEN excluded.last_use - u.last_use > interval '1 hour' THEN 0 \
               ELSE u.requests END",
        )
        .await
        .doing(NOTING)?;
    tx.execute(&statement, &[&ids, &lasts, &requests])
        .await
        .doing(NOTING)?;
    if report.complete {
        let statement = tx
            .prepare_cached(
                "UPDATE patchbay_nodes SET uses_told_at = $3 WHERE worker = $1 AND node_id = $2",
            )
            .await
            .doing(NOTING)?;
        tx.execute(&statement, &[&worker.0, &node.unwrap_or_default(), &now])
            .await
            .doing(NOTING)?;
    }
    Ok(true)
}

/// What is known of these circuits' use.
pub(super) async fn of(client: &impl GenericClient, ids: &[CircuitId]) -> Result<Vec<CircuitUse>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let statement = client
        .prepare_cached(
            "SELECT circuit, last_use, requests FROM patchbay_uses WHERE circuit = ANY($1)",
        )
        .await
        .doing(READING)?;
    let rows = client.query(&statement, &[&ids]).await.doing(READING)?;
    let read = |row: &tokio_postgres::Row| CircuitUse {
        circuit: CircuitId(row.get(0)),
        last: row.get(1),
        requests: u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
    };
    Ok(rows.iter().map(read).collect())
}

/// The workers whose every node has told all it knew since.
pub(super) async fn told_all(
    client: &impl GenericClient,
    since: DateTime<Utc>,
) -> Result<Vec<WorkerId>> {
    let statement = client
        .prepare_cached(
            "SELECT n.worker FROM patchbay_nodes n JOIN workers w ON w.id = n.worker \
             GROUP BY n.worker, w.nodes HAVING count(*) >= w.nodes \
             AND bool_and(coalesce(n.uses_told_at >= $1, false))",
        )
        .await
        .doing(READING)?;
    let rows = client.query(&statement, &[&since]).await.doing(READING)?;
    Ok(rows.iter().map(|row| WorkerId(row.get(0))).collect())
}
