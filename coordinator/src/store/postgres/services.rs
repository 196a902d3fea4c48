//! Services of the gateway in PostgreSQL. The row of the generation is locked for every change, so
//! that generations become visible in their order.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use patchbay_common::gateway::Published;
use patchbay_common::timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::attempt::{again, change, look};
use super::{PostgresStore, pool};
use crate::store::error::Doing as _;
use crate::store::services::{
    self, COLUMNS, ChangeRow, LoggedService, ServiceChange, ServiceFilter, ServiceList,
    ServiceStore,
};
use crate::store::{Cause, Result, stored};

const CHANGING: &str = "changing services";
const READING: &str = "reading changes of services";

#[async_trait]
impl ServiceStore for PostgresStore {
    async fn services(&self, name: Option<&str>) -> Result<ServiceList> {
        look!(self.pool, "listing services", |tx| list(&tx, name))
    }

    async fn change_services(
        &self,
        wanted: &[ServiceChange],
        cause: &Cause,
    ) -> Result<Vec<LoggedService>> {
        change!(self.pool, CHANGING, |tx| change(&tx, wanted, cause))
    }

    async fn services_generation(&self) -> Result<u64> {
        look!(self.pool, "reading a generation", |tx| generation(&tx))
    }

    async fn service_changes_after(
        &self,
        after_generation: u64,
        limit: usize,
    ) -> Result<Option<Vec<LoggedService>>> {
        look!(self.pool, READING, |tx| after(&tx, after_generation, limit))
    }

    async fn service_changes(
        &self,
        filter: &ServiceFilter,
        limit: usize,
    ) -> Result<Vec<LoggedService>> {
        look!(self.pool, READING, |tx| read(&tx, filter, limit))
    }

    async fn prune_service_changes(&self, before: DateTime<Utc>, limit: usize) -> Result<u64> {
        change!(self.pool, "pruning changes of services", |tx| prune(
            &tx, before, limit
        ))
    }
}

async fn list(tx: &Transaction<'_>, name: Option<&str>) -> Result<ServiceList> {
    const DOING: &str = "listing services";
    let statement = tx
        .prepare_cached(
            "SELECT name, origin, generation, definition, updated_at FROM patchbay_services \
             WHERE $1::text IS NULL OR name = $1 ORDER BY name, origin",
        )
        .await
        .doing(DOING)?;
    let rows = tx.query(&statement, &[&name]).await.doing(DOING)?;
    let read = |row: &Row| -> std::result::Result<services::Row, tokio_postgres::Error> {
        Ok((
            row.try_get(0)?,
            row.try_get(1)?,
            row.try_get(2)?,
            row.try_get(3)?,
            row.try_get(4)?,
        ))
    };
    let rows: Vec<services::Row> = rows
        .iter()
        .map(read)
        .collect::<std::result::Result<_, _>>()
        .doing(DOING)?;
    Ok(ServiceList {
        services: services::readable(rows),
        generation: generation(tx).await?,
    })
}

async fn generation(tx: &Transaction<'_>) -> Result<u64> {
    const DOING: &str = "reading a generation";
    let statement = tx
        .prepare_cached("SELECT generation FROM patchbay_services_generation")
        .await
        .doing(DOING)?;
    let row = tx.query_one(&statement, &[]).await.doing(DOING)?;
    stored::generation(row.get(0))
}

async fn change(
    tx: &Transaction<'_>,
    wanted: &[ServiceChange],
    cause: &Cause,
) -> Result<Vec<LoggedService>> {
    let now = timestamp::now();
    let current = one(
        tx,
        "SELECT generation FROM patchbay_services_generation FOR UPDATE",
    )
    .await?;
    let mut next = current;
    let mut logged = Vec::new();
    for one in wanted {
        let definition = one.definition.as_ref().map(services::written).transpose()?;
        let origin = one.origin.to_string();
        let statement = tx
            .prepare_cached(
                "SELECT definition FROM patchbay_services WHERE name = $1 AND origin = $2",
            )
            .await
            .doing(CHANGING)?;
        let known = tx.query_opt(&statement, &[&one.name, &origin]).await;
        let known: Option<String> = known.doing(CHANGING)?.map(|row| row.get(0));
        if known == definition {
            continue;
        }
        next += 1;
        put(tx, one, (&origin, next, definition.as_ref(), now)).await?;
        let by = (cause.actor.as_str(), cause.reason.as_str());
        execute(
            tx,
            "INSERT INTO patchbay_service_changes (generation, at, name, origin, definition, \
             actor, reason, detail, request_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                &next,
                &now,
                &one.name,
                &origin,
                &definition,
                &by.0,
                &by.1,
                &cause.detail,
                &cause.request_id,
            ],
        )
        .await?;
        logged.push(LoggedService {
            published: Published {
                name: one.name.clone(),
                origin: one.origin.clone(),
                generation: stored::generation(next)?,
                definition: one.definition.clone(),
                request_id: cause.request_id.clone(),
            },
            at: now,
            cause: cause.clone(),
        });
    }
    if next > current {
        let sql = "UPDATE patchbay_services_generation SET generation = $1";
        execute(tx, sql, &[&next]).await?;
    }
    if logged.iter().any(|one| one.published.definition.is_some()) {
        services::bound(one(tx, "SELECT count(*) FROM patchbay_services").await?)?;
    }
    Ok(logged)
}

async fn put(
    tx: &Transaction<'_>,
    change: &ServiceChange,
    (origin, generation, definition, now): (&String, i64, Option<&String>, DateTime<Utc>),
) -> Result<()> {
    match definition {
        Some(text) => {
            execute(
                tx,
                "INSERT INTO patchbay_services (name, origin, generation, definition, updated_at) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name, origin) DO UPDATE SET \
                 generation = excluded.generation, definition = excluded.definition, \
                 updated_at = excluded.updated_at",
                &[&change.name, origin, &generation, text, &now],
            )
            .await
        }
        None => {
            let sql = "DELETE FROM patchbay_services WHERE name = $1 AND origin = $2";
            execute(tx, sql, &[&change.name, origin]).await
        }
    }
}

async fn execute(tx: &Transaction<'_>, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<()> {
    let statement = tx.prepare_cached(sql).await.doing(CHANGING)?;
    tx.execute(&statement, params)
        .await
        .map(drop)
        .doing(CHANGING)
}

async fn one(tx: &Transaction<'_>, sql: &str) -> Result<i64> {
    let statement = tx.prepare_cached(sql).await.doing(CHANGING)?;
    let row = tx.query_one(&statement, &[]).await.doing(CHANGING)?;
    row.try_get(0).doing(CHANGING)
}

async fn after(
    tx: &Transaction<'_>,
    after: u64,
    limit: usize,
) -> Result<Option<Vec<LoggedService>>> {
    let current = generation(tx).await?;
    let sql = format!(
        "SELECT {COLUMNS} FROM patchbay_service_changes c WHERE c.generation > $1 \
         ORDER BY c.generation LIMIT $2"
    );
    let bound = stored::generation_column(after);
    let rows = select(tx, &sql, &[&bound, &stored::limit_column(limit)]).await?;
    Ok(services::unbroken(rows, after, current, limit))
}

async fn read(
    tx: &Transaction<'_>,
    filter: &ServiceFilter,
    limit: usize,
) -> Result<Vec<LoggedService>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM patchbay_service_changes c \
         WHERE ($1::text IS NULL OR c.name = $1) AND ($2::timestamptz IS NULL OR c.at >= $2) \
         AND ($3::timestamptz IS NULL OR c.at < $3) AND ($4::bigint IS NULL OR c.generation < $4) \
         ORDER BY c.generation DESC LIMIT $5"
    );
    let before = filter.before.map(stored::generation_column);
    let limit = stored::limit_column(limit);
    let params: [&(dyn ToSql + Sync); 5] =
        [&filter.name, &filter.since, &filter.until, &before, &limit];
    Ok(services::readable_changes(select(tx, &sql, &params).await?))
}

async fn select(
    tx: &Transaction<'_>,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<ChangeRow>> {
    let statement = tx.prepare_cached(sql).await.doing(READING)?;
    let rows = tx.query(&statement, params).await.doing(READING)?;
    rows.iter()
        .map(row)
        .collect::<std::result::Result<_, _>>()
        .doing(READING)
}

fn row(row: &Row) -> std::result::Result<ChangeRow, tokio_postgres::Error> {
    Ok(ChangeRow {
        generation: row.try_get(0)?,
        at: row.try_get(1)?,
        name: row.try_get(2)?,
        origin: row.try_get(3)?,
        definition: row.try_get(4)?,
        actor: row.try_get(5)?,
        reason: row.try_get(6)?,
        detail: row.try_get(7)?,
        request_id: row.try_get(8)?,
    })
}

async fn prune(tx: &Transaction<'_>, before: DateTime<Utc>, limit: usize) -> Result<u64> {
    const DOING: &str = "pruning changes of services";
    let statement = tx
        .prepare_cached(
            "DELETE FROM patchbay_service_changes WHERE generation IN \
             (SELECT generation FROM patchbay_service_changes WHERE at < $1 ORDER BY at LIMIT $2)",
        )
        .await
        .doing(DOING)?;
    tx.execute(&statement, &[&before, &stored::limit_column(limit)])
        .await
        .doing(DOING)
}
