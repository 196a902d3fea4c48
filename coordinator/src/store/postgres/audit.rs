//! The audit in PostgreSQL.

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Transaction};
use patchbay_common::timestamp;
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::store::audit::{self, AuditEntry, AuditFilter, AuditRow, COLUMNS, Cause, Record};
use crate::store::error::Doing;
use crate::store::{Result, stored};

/// Writes rows for changes that this transaction makes.
pub(super) async fn write(
    tx: &Transaction<'_>,
    records: &[Record<'_>],
    cause: &Cause,
) -> Result<()> {
    let rows: Vec<_> = records.iter().map(|record| (record, cause)).collect();
    write_each(tx, &rows).await
}

/// As [`write`], each row for a reason of its own.
pub(super) async fn write_each(
    tx: &Transaction<'_>,
    records: &[(&Record<'_>, &Cause)],
) -> Result<()> {
    const DOING: &str = "writing the audit";
    if records.is_empty() {
        return Ok(());
    }
    let rows: Vec<Value> = records
        .iter()
        .map(|(record, cause)| {
            let circuit = record.circuit;
            json!({
                "action": record.action.as_str(), "circuit": circuit.id, "app": circuit.app,
                "session_ids": circuit.session_ids, "endpoint_id": circuit.endpoint_id,
                "user_id": circuit.user_id, "worker": circuit.worker,
                "authority": record.authority, "slot": record.slot(),
                "from_worker": record.from.map(|(id, _)| id),
                "from_authority": record.from.map(|(_, name)| name),
                "actor": cause.actor.as_str(), "reason": cause.reason.as_str(),
                "detail": cause.detail, "request_id": cause.request_id,
            })
        })
        .collect();
    let statement = tx
        .prepare_cached(
            "INSERT INTO patchbay_audit (at, action, circuit, app, session_ids, endpoint_id, \
             user_id, worker, authority, slot, from_worker, from_authority, actor, reason, detail, \
             request_id) SELECT $2, n.action, n.circuit, n.app, n.session_ids, n.endpoint_id, \
             n.user_id, n.worker, n.authority, n.slot, n.from_worker, n.from_authority, n.actor, \
             n.reason, n.detail, n.request_id FROM jsonb_to_recordset($1::jsonb) AS n (action text, circuit uuid, app text, \
             session_ids uuid[], endpoint_id uuid, user_id uuid, worker uuid, authority text, \
             slot text, from_worker uuid, from_authority text, actor text, reason text, \
             detail text, request_id text)",
        )
        .await
        .doing(DOING)?;
    let params: [&(dyn ToSql + Sync); 2] = [&Value::Array(rows), &timestamp::now()];
    tx.execute(&statement, &params).await.map(drop).doing(DOING)
}

/// The rows that match, the newest first.
pub(super) async fn read(
    client: &impl GenericClient,
    filter: &AuditFilter,
    limit: usize,
) -> Result<Vec<AuditEntry>> {
    const DOING: &str = "reading the audit";
    let circuit = filter.circuit.map(|id| id.0);
    let session = filter.session.map(|id| id.0);
    let worker = filter.worker.map(|id| id.0);
    let action = filter.action.map(audit::Action::as_str);
    let before = filter.before.map(stored::generation_column);
    let limit = stored::limit_column(limit);
    let wanted = [
        ("a.circuit = $?", given(&circuit)),
        ("a.session_ids @> ARRAY[$?::uuid]", given(&session)),
        ("(a.worker = $? OR a.from_worker = $?)", given(&worker)),
        ("a.action = $?", given(&action)),
        ("a.at >= $?", given(&filter.since)),
        ("a.at < $?", given(&filter.until)),
        ("a.seq < $?", given(&before)),
    ];
    let mut conditions = vec!["true".to_owned()];
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&limit];
    for (condition, value) in wanted {
        let Some(value) = value else { continue };
        params.push(value);
        conditions.push(condition.replace("$?", &format!("${}", params.len())));
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM patchbay_audit a WHERE {} ORDER BY a.seq DESC LIMIT $1",
        conditions.join(" AND ")
    );
    let rows = client.query(&sql, &params).await.doing(DOING)?;
    let rows: Vec<AuditRow> = rows
        .iter()
        .map(row)
        .collect::<std::result::Result<_, _>>()
        .doing(DOING)?;
    Ok(audit::readable(rows))
}

fn given<T: ToSql + Sync>(value: &Option<T>) -> Option<&(dyn ToSql + Sync)> {
    value.as_ref().map(|value| value as _)
}

fn row(row: &Row) -> std::result::Result<AuditRow, tokio_postgres::Error> {
    Ok(AuditRow {
        seq: row.try_get(0)?,
        at: row.try_get(1)?,
        action: row.try_get(2)?,
        circuit: row.try_get(3)?,
        app: row.try_get(4)?,
        session_ids: row.try_get(5)?,
        endpoint_id: row.try_get(6)?,
        user_id: row.try_get(7)?,
        worker: row.try_get(8)?,
        authority: row.try_get(9)?,
        slot: row.try_get(10)?,
        from_worker: row.try_get(11)?,
        from_authority: row.try_get(12)?,
        actor: row.try_get(13)?,
        reason: row.try_get(14)?,
        detail: row.try_get(15)?,
        request_id: row.try_get(16)?,
    })
}

/// Forgets the oldest rows.
pub(super) async fn prune(
    client: &impl GenericClient,
    before: DateTime<Utc>,
    limit: usize,
) -> Result<u64> {
    const DOING: &str = "pruning the audit";
    let statement = client
        .prepare_cached(
            "DELETE FROM patchbay_audit WHERE seq IN \
             (SELECT seq FROM patchbay_audit WHERE at < $1 ORDER BY at LIMIT $2)",
        )
        .await
        .doing(DOING)?;
    client
        .execute(&statement, &[&before, &stored::limit_column(limit)])
        .await
        .doing(DOING)
}
