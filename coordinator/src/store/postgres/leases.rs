//! Leases in PostgreSQL. The server's clock rules, so that the coordinators' need not agree.

use std::time::Duration;

use deadpool_postgres::Transaction;
use uuid::Uuid;

use crate::store::Result;
use crate::store::error::Doing;

/// Takes or renews a lease; false while somebody else holds it.
pub(super) async fn take(
    tx: &Transaction<'_>,
    name: &str,
    holder: Uuid,
    length: Duration,
) -> Result<bool> {
    const DOING: &str = "taking a lease";
    let statement = tx
        .prepare_cached(
            "INSERT INTO patchbay_leases AS l (name, holder, until) \
             VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3)) \
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until \
             WHERE l.holder = excluded.holder OR l.until < clock_timestamp()",
        )
        .await
        .doing(DOING)?;
    tx.execute(&statement, &[&name, &holder, &length.as_secs_f64()])
        .await
        .map(|taken| taken > 0)
        .doing(DOING)
}

/// Gives a lease back, if it is held.
pub(super) async fn release(tx: &Transaction<'_>, name: &str, holder: Uuid) -> Result<()> {
    const DOING: &str = "giving a lease back";
    let statement = tx
        .prepare_cached("DELETE FROM patchbay_leases WHERE name = $1 AND holder = $2")
        .await
        .doing(DOING)?;
    tx.execute(&statement, &[&name, &holder])
        .await
        .map(drop)
        .doing(DOING)
}
