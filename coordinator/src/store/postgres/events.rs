//! Generations and the log of events in PostgreSQL.

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Transaction};
use patchbay_common::event::Change;
use patchbay_common::id::WorkerId;
use patchbay_common::timestamp;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::rows;
use crate::store::error::Doing;
use crate::store::stored::{self, EventRow};
use crate::store::{LoggedEvent, Result};

/// Takes the worker's next generation and logs the change under it. The generation's row stays
/// locked until the commit, so that generations become visible in their order.
pub(super) async fn log(
    tx: &Transaction<'_>,
    worker: WorkerId,
    authority: &str,
    change: Change,
    request_id: Option<&str>,
) -> Result<u64> {
    log_all(tx, worker, authority, vec![change], request_id).await
}

/// Logs several changes of one worker, each under a generation of its own; answers the last one.
pub(super) async fn log_all(
    tx: &Transaction<'_>,
    worker: WorkerId,
    authority: &str,
    changes: Vec<Change>,
    request_id: Option<&str>,
) -> Result<u64> {
    let asked = |change| (change, request_id.map(str::to_owned));
    let changes = changes.into_iter().map(asked).collect();
    log_each(tx, worker, authority, changes).await
}

/// As [`log_all`], each change with the id of the request that asked for it.
pub(super) async fn log_each(
    tx: &Transaction<'_>,
    worker: WorkerId,
    authority: &str,
    changes: Vec<(Change, Option<String>)>,
) -> Result<u64> {
    const DOING: &str = "logging an event";
    let count = stored::limit_column(changes.len());
    let (mut names, mut bodies, mut requests) = (Vec::new(), Vec::new(), Vec::new());
    for (change, request) in changes {
        let (name, body) = stored::event_parts(authority, change)?;
        names.push(name);
        bodies.push(body.to_string());
        requests.push(request);
    }
    let statement = tx
        .prepare_cached(
            "WITH next AS ( \
               INSERT INTO patchbay_generations AS g (worker, generation) VALUES ($1, $2) \
               ON CONFLICT (worker) DO UPDATE SET generation = g.generation + $2 \
               RETURNING g.generation), \
             logged AS ( \
               INSERT INTO patchbay_events \
                 (worker, generation, name, body, request_id, created_at) \
               SELECT $1, next.generation - $2 + e.place, e.name, e.body, e.request, $6 \
               FROM next, unnest($3::text[], $4::text[], $5::text[]) WITH ORDINALITY \
                 AS e (name, body, request, place)) \
             SELECT generation FROM next",
        )
        .await
        .doing(DOING)?;
    let now = timestamp::now();
    let row = tx
        .query_one(
            &statement,
            &[&worker.0, &count, &names, &bodies, &requests, &now],
        )
        .await
        .doing(DOING)?;
    stored::generation(row.get(0))
}

/// The worker's generation.
pub(super) async fn generation(client: &impl GenericClient, worker: WorkerId) -> Result<u64> {
    const SQL: &str = "SELECT generation FROM patchbay_generations WHERE worker = $1";
    number(client, SQL, worker).await
}

/// The highest generation the worker acknowledged.
pub(super) async fn acknowledged(client: &impl GenericClient, worker: WorkerId) -> Result<u64> {
    const SQL: &str = "SELECT acknowledged FROM patchbay_generations WHERE worker = $1";
    number(client, SQL, worker).await
}

async fn number(client: &impl GenericClient, sql: &str, worker: WorkerId) -> Result<u64> {
    const DOING: &str = "reading a generation";
    let statement = client.prepare_cached(sql).await.doing(DOING)?;
    let row = client
        .query_opt(&statement, &[&worker.0])
        .await
        .doing(DOING)?;
    stored::generation(row.map_or(0, |row| row.get(0)))
}

/// Notes what the worker serves. It cannot acknowledge what has not happened.
pub(super) async fn acknowledge(
    client: &impl GenericClient,
    worker: WorkerId,
    generation: u64,
) -> Result<()> {
    const DOING: &str = "noting an acknowledgement";
    let statement = client
        .prepare_cached(
            "UPDATE patchbay_generations SET acknowledged = least($2, generation) \
             WHERE worker = $1 AND acknowledged < least($2, generation)",
        )
        .await
        .doing(DOING)?;
    let generation = stored::generation_column(generation);
    client
        .execute(&statement, &[&worker.0, &generation])
        .await
        .map(drop)
        .doing(DOING)
}

/// The events after a generation, if the log still holds all of them.
pub(super) async fn after(
    tx: &Transaction<'_>,
    worker: WorkerId,
    after: u64,
    limit: usize,
) -> Result<Option<Vec<LoggedEvent>>> {
    let current = generation(tx, worker).await?;
    let sql = format!(
        "SELECT {} FROM patchbay_events e WHERE e.worker = $1 AND e.generation > $2 \
         ORDER BY e.generation LIMIT $3",
        rows::EVENT
    );
    let bound = stored::generation_column(after);
    let count = stored::limit_column(limit);
    let rows = select(tx, &sql, &[&worker.0, &bound, &count]).await?;
    Ok(stored::unbroken(rows, after, current, limit))
}

/// Events not yet published, oldest first.
pub(super) async fn unpublished(
    client: &impl GenericClient,
    before: DateTime<Utc>,
    limit: usize,
) -> Result<Vec<LoggedEvent>> {
    let sql = format!(
        "SELECT {} FROM patchbay_events e WHERE e.published_at IS NULL AND e.created_at < $1 \
         ORDER BY e.created_at, e.generation LIMIT $2",
        rows::EVENT
    );
    let rows = select(client, &sql, &[&before, &stored::limit_column(limit)]).await?;
    Ok(stored::readable(rows))
}

async fn select(
    client: &impl GenericClient,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<EventRow>> {
    const DOING: &str = "reading events";
    let statement = client.prepare_cached(sql).await.doing(DOING)?;
    let rows = client.query(&statement, params).await.doing(DOING)?;
    rows.iter()
        .map(rows::event)
        .collect::<std::result::Result<_, _>>()
        .doing(DOING)
}

/// Notes that these events were published.
pub(super) async fn mark_published(
    client: &impl GenericClient,
    published: &[(WorkerId, u64)],
) -> Result<()> {
    const DOING: &str = "noting published events";
    let (workers, generations): (Vec<Uuid>, Vec<i64>) = published
        .iter()
        .map(|(worker, generation)| (worker.0, stored::generation_column(*generation)))
        .unzip();
    let statement = client
        .prepare_cached(
            "UPDATE patchbay_events e SET published_at = $3 \
             FROM unnest($1::uuid[], $2::bigint[]) AS p (worker, generation) \
             WHERE e.worker = p.worker AND e.generation = p.generation \
             AND e.published_at IS NULL",
        )
        .await
        .doing(DOING)?;
    client
        .execute(&statement, &[&workers, &generations, &timestamp::now()])
        .await
        .map(drop)
        .doing(DOING)
}

/// Forgets published events.
pub(super) async fn prune(client: &impl GenericClient, before: DateTime<Utc>) -> Result<u64> {
    const DOING: &str = "pruning events";
    let statement = client
        .prepare_cached(
            "DELETE FROM patchbay_events WHERE published_at IS NOT NULL AND created_at < $1",
        )
        .await
        .doing(DOING)?;
    client.execute(&statement, &[&before]).await.doing(DOING)
}
