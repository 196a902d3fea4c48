//! Who holds which tunnel, in PostgreSQL.

use chrono::TimeDelta;
use deadpool_postgres::Transaction;
use patchbay_common::id::WorkerId;
use patchbay_common::timestamp;
use patchbay_common::tunnel::{CLAIM_SECONDS, Claim, Holdings, Settled};
use serde_json::Value;
use uuid::Uuid;

use crate::store::error::Doing;
use crate::store::{Result, stored};

/// Settles what a gateway claims; `None` if there is no such worker.
pub(super) async fn claim(
    tx: &Transaction<'_>,
    worker: WorkerId,
    node: &str,
    claim: Claim,
) -> Result<Option<Settled>> {
    const DOING: &str = "claiming tunnels";
    // One claim after the other, whichever coordinator it came to; readers are not held up.
    tx.batch_execute("LOCK TABLE patchbay_tunnels IN EXCLUSIVE MODE")
        .await
        .doing(DOING)?;
    let mut holdings = all(tx).await?;
    let before = holdings.gateways.clone();
    let (settled, _) = holdings.settle(worker, node, claim);
    let now = timestamp::now();
    let statement = tx
        .prepare_cached(
            "INSERT INTO patchbay_tunnels (worker, node, told_at, generation, claim) \
             SELECT w.id, $2, $3, $4, $5 FROM workers w WHERE w.id = $1 \
             ON CONFLICT (worker, node) DO UPDATE SET \
             told_at = CASE WHEN $6 THEN excluded.told_at ELSE patchbay_tunnels.told_at END, \
             generation = excluded.generation, claim = excluded.claim",
        )
        .await
        .doing(DOING)?;
    for told in stored::to_write(&before, &holdings, worker, node) {
        // A gateway that lost a name has not told anything by that: its time stays.
        let own = told.worker == worker && told.node == node;
        let generation = stored::generation_column(told.generation);
        let claim = stored::claim(&told.claim)?;
        let kept = tx
            .execute(
                &statement,
                &[&told.worker.0, &told.node, &now, &generation, &claim, &own],
            )
            .await
            .doing(DOING)?;
        if kept == 0 {
            return Ok(None);
        }
    }
    Ok(Some(settled))
}

/// What all gateways have told that were heard lately.
pub(super) async fn all(tx: &Transaction<'_>) -> Result<Holdings> {
    const DOING: &str = "reading who holds tunnels";
    let statement = tx
        .prepare_cached(
            "SELECT worker, node, generation, claim, told_at > $1 FROM patchbay_tunnels \
             ORDER BY worker, node",
        )
        .await
        .doing(DOING)?;
    let since = timestamp::now() - TimeDelta::seconds(CLAIM_SECONDS);
    let rows = tx.query(&statement, &[&since]).await.doing(DOING)?;
    let mut holdings = Holdings::default();
    for row in &rows {
        let told = stored::told(
            row.try_get::<_, Uuid>(0).doing(DOING)?,
            row.try_get(1).doing(DOING)?,
            row.try_get(2).doing(DOING)?,
            row.try_get::<_, Value>(3).doing(DOING)?,
        )?;
        stored::gather(&mut holdings, told, row.try_get(4).doing(DOING)?);
    }
    Ok(holdings)
}
