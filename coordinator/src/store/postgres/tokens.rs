//! Tokens in PostgreSQL.

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use patchbay_common::id::TokenId;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::store::error::Doing;
use crate::store::{Result, SessionToken, stored};

/// Keeps a token.
pub(super) async fn add(client: &impl GenericClient, token: &SessionToken) -> Result<()> {
    const DOING: &str = "keeping a token";
    let statement = client
        .prepare_cached(
            "INSERT INTO tokens (id, login_session_token, kernel_host, kernel_port, session_id, \
             user_uuid, group_id, access_key, domain_name) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .await
        .doing(DOING)?;
    client
        .execute(
            &statement,
            &[
                &token.id.0,
                &token.login_session_token,
                &token.kernel_host,
                &i32::from(token.kernel_port),
                &token.session_id.0,
                &token.user.0,
                &token.project.0,
                &token.access_key,
                &token.domain_name,
            ],
        )
        .await
        .map(drop)
        .doing(DOING)
}

/// The token of this id.
pub(super) async fn get(client: &impl GenericClient, id: TokenId) -> Result<Option<SessionToken>> {
    const DOING: &str = "reading a token";
    let statement = client
        .prepare_cached(
            "SELECT id, login_session_token, kernel_host, kernel_port, session_id, user_uuid, \
             group_id, access_key, domain_name FROM tokens WHERE id = $1",
        )
        .await
        .doing(DOING)?;
    let row = client.query_opt(&statement, &[&id.0]).await.doing(DOING)?;
    row.map(|row| read(&row)).transpose()
}

/// Forgets old tokens of sessions that have no circuit.
pub(super) async fn prune(
    client: &impl GenericClient,
    before: DateTime<Utc>,
    limit: usize,
) -> Result<u64> {
    const DOING: &str = "pruning tokens";
    let statement = client
        .prepare_cached(
            "DELETE FROM tokens WHERE id IN (SELECT t.id FROM tokens t WHERE t.created_at < $1 \
             AND NOT EXISTS (SELECT 1 FROM circuits c \
             WHERE c.session_ids @> ARRAY[t.session_id]) ORDER BY t.created_at LIMIT $2)",
        )
        .await
        .doing(DOING)?;
    let limit = stored::limit_column(limit);
    client
        .execute(&statement, &[&before, &limit])
        .await
        .doing(DOING)
}

fn read(row: &Row) -> Result<SessionToken> {
    let id: Uuid = row.get(0);
    Ok(SessionToken {
        id: id.into(),
        login_session_token: row.get(1),
        kernel_host: row.get(2),
        kernel_port: stored::port(row.get(3), || format!("tokens.kernel_port of {id}"))?,
        session_id: row.get::<_, Uuid>(4).into(),
        user: row.get::<_, Uuid>(5).into(),
        project: row.get::<_, Uuid>(6).into(),
        access_key: row.get(7),
        domain_name: row.get(8),
    })
}
