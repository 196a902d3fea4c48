//! Who holds which tunnel, in SQLite.

use chrono::{DateTime, TimeDelta, Utc};
use patchbay_common::id::WorkerId;
use patchbay_common::timestamp;
use patchbay_common::tunnel::{CLAIM_SECONDS, Claim, Holdings, Settled};
use rusqlite::{Transaction, params};
use serde_json::Value;
use uuid::Uuid;

use super::rows::{self, micros};
use crate::store::error::Doing;
use crate::store::{Result, stored};

/// Settles what a gateway claims; `None` if there is no such worker.
pub(super) fn claim(
    tx: &Transaction<'_>,
    worker: WorkerId,
    node: &str,
    claim: Claim,
) -> Result<Option<Settled>> {
    const DOING: &str = "claiming tunnels";
    let now = timestamp::now();
    let mut holdings = all(tx, now)?;
    let before = holdings.gateways.clone();
    let (settled, _) = holdings.settle(worker, node, claim);
    for told in stored::to_write(&before, &holdings, worker, node) {
        // A gateway that lost a name has not told anything by that: its time stays.
        let own = told.worker == worker && told.node == node;
        let (id, generation) = (
            told.worker.to_string(),
            stored::generation_column(told.generation),
        );
        let claim = stored::claim(&told.claim)?.to_string();
        let kept = tx
            .prepare_cached(
                "INSERT INTO patchbay_tunnels (worker, node, told_at, generation, claim) \
                 SELECT w.id, ?2, ?3, ?4, ?5 FROM workers w WHERE w.id = ?1 \
                 ON CONFLICT (worker, node) DO UPDATE SET \
                 told_at = CASE WHEN ?6 THEN excluded.told_at ELSE told_at END, \
                 generation = excluded.generation, claim = excluded.claim",
            )
            .and_then(|mut statement| {
                statement.execute(params![id, told.node, micros(now), generation, claim, own])
            })
            .doing(DOING)?;
        if kept == 0 {
            return Ok(None);
        }
    }
    Ok(Some(settled))
}

/// What all gateways have told that were heard lately.
pub(super) fn all(tx: &Transaction<'_>, now: DateTime<Utc>) -> Result<Holdings> {
    const DOING: &str = "reading who holds tunnels";
    let since = micros(now - TimeDelta::seconds(CLAIM_SECONDS));
    let found: Vec<(Uuid, String, i64, Value, bool)> = tx
        .prepare_cached(
            "SELECT worker, node, generation, claim, told_at > ?1 FROM patchbay_tunnels \
             ORDER BY worker, node",
        )
        .and_then(|mut statement| {
            let row = |row: &rusqlite::Row<'_>| {
                let claim = rows::json(row, 3)?;
                Ok((
                    rows::uuid(row, 0)?,
                    row.get(1)?,
                    row.get(2)?,
                    claim,
                    row.get(4)?,
                ))
            };
            statement.query_map([since], row)?.collect()
        })
        .doing(DOING)?;
    let mut holdings = Holdings::default();
    for (worker, node, generation, claim, fresh) in found {
        let told = stored::told(worker, node, generation, claim)?;
        stored::gather(&mut holdings, told, fresh);
    }
    Ok(holdings)
}
