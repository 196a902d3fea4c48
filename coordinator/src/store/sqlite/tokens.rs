//! Tokens in SQLite.

use patchbay_common::id::TokenId;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::rows::uuid;
use crate::store::error::Doing;
use crate::store::{Result, SessionToken, stored};

/// Keeps a token.
pub(super) fn add(tx: &Transaction<'_>, token: &SessionToken) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO tokens (id, login_session_token, kernel_host, kernel_port, session_id, \
         user_uuid, group_id, access_key, domain_name) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9)",
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
