//! Tokens in SQLite.

use chrono::{DateTime, Utc};
use patchbay_common::id::TokenId;
use patchbay_common::timestamp;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::rows::{micros, uuid};
use crate::store::error::Doing;
use crate::store::{Result, SessionToken, stored};

/// Keeps a token.
pub(super) fn add(tx: &Transaction<'_>, token: &SessionToken) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO tokens (id, login_session_token, kernel_host, kernel_port, session_id, \
         user_uuid, group_id, access_key, domain_name, created_at) \
         VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)",
    )
    .and_then(|mut statement| {
        statement.execute(params![
            token.id.to_string(),
            token.login_session_token,
            token.kernel_host,
            token.kernel_port,
            token.session_id.to_string(),
            token.user.to_string(),
            token.project.to_string(),
            token.access_key,
            token.domain_name,
            micros(timestamp::now()),
        ])
    })
    .map(drop)
    .doing("keeping a token")
}

/// The token of this id.
pub(super) fn get(tx: &Transaction<'_>, id: TokenId) -> Result<Option<SessionToken>> {
    let row = tx
        .prepare_cached(
            "SELECT id, login_session_token, kernel_host, kernel_port, session_id, user_uuid, \
             group_id, access_key, domain_name FROM tokens WHERE id = ?1",
        )
        .and_then(|mut statement| statement.query_row([id.to_string()], read).optional())
        .doing("reading a token")?;
    row.map(|(token, port)| {
        let kernel_port = stored::port(port, || format!("tokens.kernel_port of {id}"))?;
        Ok(SessionToken {
            kernel_port,
            ..token
        })
    })
    .transpose()
}

/// Forgets old tokens of sessions that have no circuit.
pub(super) fn prune(tx: &Transaction<'_>, before: DateTime<Utc>, limit: usize) -> Result<u64> {
    let forgotten = tx
        .prepare_cached(
            "DELETE FROM tokens WHERE id IN (SELECT t.id FROM tokens t WHERE t.created_at < ?1 \
             AND NOT EXISTS (SELECT 1 FROM circuits c, json_each(c.session_ids) s \
             WHERE s.value = t.session_id) ORDER BY t.created_at LIMIT ?2)",
        )
        .and_then(|mut statement| {
            statement.execute(params![micros(before), stored::limit_column(limit)])
        })
        .doing("pruning tokens")?;
    Ok(forgotten as u64)
}

/// The token without its port, and the port as it is stored.
fn read(row: &Row<'_>) -> rusqlite::Result<(SessionToken, i32)> {
    let token = SessionToken {
        id: uuid(row, 0)?.into(),
        login_session_token: row.get(1)?,
        kernel_host: row.get(2)?,
        kernel_port: 0,
        session_id: uuid(row, 4)?.into(),
        user: uuid(row, 5)?.into(),
        project: uuid(row, 6)?.into(),
        access_key: row.get(7)?,
        domain_name: row.get(8)?,
    };
    Ok((token, row.get(3)?))
}
