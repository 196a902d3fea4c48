//! The audit in SQLite.

use chrono::{DateTime, Utc};
use patchbay_common::timestamp;
use rusqlite::{Row, ToSql, Transaction, params};
use serde_json::json;

use super::rows::{self, micros};
use crate::store::audit::{self, AuditEntry, AuditFilter, AuditRow, COLUMNS, Cause, Record};
use crate::store::error::Doing;
use crate::store::{Result, stored};

/// Writes a row for a change that this transaction makes.
pub(super) fn write(tx: &Transaction<'_>, record: &Record<'_>, cause: &Cause) -> Result<()> {
    const DOING: &str = "writing the audit";
    let circuit = record.circuit;
    tx.prepare_cached(
        "INSERT INTO patchbay_audit (at, action, circuit, app, session_ids, endpoint_id, user_id, \
         worker, authority, slot, from_worker, from_authority, actor, reason, detail, request_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
    )
    .and_then(|mut statement| {
        statement.execute(params![
            micros(timestamp::now()),
            record.action.as_str(),
            circuit.id.to_string(),
            circuit.app,
            json!(circuit.session_ids).to_string(),
            circuit.endpoint_id.map(|id| id.to_string()),
            circuit.user_id.map(|id| id.to_string()),
            circuit.worker.to_string(),
            record.authority,
            record.slot(),
            record.from.map(|(id, _)| id.to_string()),
            record.from.map(|(_, name)| name),
            cause.actor.as_str(),
            cause.reason.as_str(),
            cause.detail,
            cause.request_id,
        ])
    })
    .doing(DOING)?;
    let seq = tx.last_insert_rowid();
    for session in &circuit.session_ids {
        tx.prepare_cached(
            "INSERT INTO patchbay_audit_sessions (session, seq) VALUES (?1, ?2) \
             ON CONFLICT DO NOTHING",
        )
        .and_then(|mut statement| statement.execute(params![session.to_string(), seq]))
        .doing(DOING)?;
    }
    Ok(())
}

/// The rows that match, the newest first.
pub(super) fn read(
    tx: &Transaction<'_>,
    filter: &AuditFilter,
    limit: usize,
) -> Result<Vec<AuditEntry>> {
    let circuit = filter.circuit.map(|id| id.to_string());
    let session = filter.session.map(|id| id.to_string());
    let worker = filter.worker.map(|id| id.to_string());
    let action = filter.action.map(audit::Action::as_str);
    let (since, until) = (filter.since.map(micros), filter.until.map(micros));
    let before = filter.before.map(stored::generation_column);
    let limit = stored::limit_column(limit);
    let of_session = "a.seq IN (SELECT s.seq FROM patchbay_audit_sessions s WHERE s.session = ?#)";
    let wanted = [
        ("a.circuit = ?#", given(&circuit)),
        (of_session, given(&session)),
        ("(a.worker = ?# OR a.from_worker = ?#)", given(&worker)),
        ("a.action = ?#", given(&action)),
        ("a.at >= ?#", given(&since)),
        ("a.at < ?#", given(&until)),
        ("a.seq < ?#", given(&before)),
    ];
    let mut conditions = vec!["true".to_owned()];
    let mut params: Vec<&dyn ToSql> = vec![&limit];
    for (condition, value) in wanted {
        let Some(value) = value else { continue };
        params.push(value);
        conditions.push(condition.replace("?#", &format!("?{}", params.len())));
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM patchbay_audit a WHERE {} ORDER BY a.seq DESC LIMIT ?1",
        conditions.join(" AND ")
    );
    let rows: Vec<AuditRow> = tx
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.query_map(params.as_slice(), row)?.collect())
        .doing("reading the audit")?;
    Ok(audit::readable(rows))
}

fn given<T: ToSql>(value: &Option<T>) -> Option<&dyn ToSql> {
    value.as_ref().map(|value| value as _)
}

fn row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    Ok(AuditRow {
        seq: row.get(0)?,
        at: rows::time(row, 1)?,
        action: row.get(2)?,
        circuit: rows::uuid(row, 3)?,
        app: row.get(4)?,
        session_ids: rows::json(row, 5)?,
        endpoint_id: rows::optional_uuid(row, 6)?,
        user_id: rows::optional_uuid(row, 7)?,
        worker: rows::uuid(row, 8)?,
        authority: row.get(9)?,
        slot: row.get(10)?,
        from_worker: rows::optional_uuid(row, 11)?,
        from_authority: row.get(12)?,
        actor: row.get(13)?,
        reason: row.get(14)?,
        detail: row.get(15)?,
        request_id: row.get(16)?,
    })
}

/// Forgets the oldest rows.
pub(super) fn prune(tx: &Transaction<'_>, before: DateTime<Utc>, limit: usize) -> Result<u64> {
    tx.prepare_cached(
        "DELETE FROM patchbay_audit WHERE seq IN \
         (SELECT seq FROM patchbay_audit WHERE at < ?1 ORDER BY at LIMIT ?2)",
    )
    .and_then(|mut statement| {
        statement.execute(params![micros(before), stored::limit_column(limit)])
    })
    .map(|count| count as u64)
    .doing("pruning the audit")
}
