//! Services of the gateway in SQLite.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use patchbay_common::gateway::Published;
use patchbay_common::timestamp;
use rusqlite::{OptionalExtension as _, Params, Transaction, params};

use super::SqliteStore;
use super::rows::{micros, time};
use crate::store::error::Doing as _;
use crate::store::services::{
    self, COLUMNS, ChangeRow, LoggedService, ServiceChange, ServiceFilter, ServiceList,
    ServiceStore,
};
use crate::store::{Cause, Result, stored};

const CHANGING: &str = "changing services";
const READING: &str = "reading changes of services";

#[async_trait]
impl ServiceStore for SqliteStore {
    async fn services(&self, name: Option<&str>) -> Result<ServiceList> {
        let name = name.map(str::to_owned);
        self.look("listing services", move |tx| list(tx, name.as_deref()))
            .await
    }

    async fn change_services(
        &self,
        changes: &[ServiceChange],
        cause: &Cause,
    ) -> Result<Vec<LoggedService>> {
        let (changes, cause) = (changes.to_vec(), cause.clone());
        self.change(CHANGING, move |tx| change(tx, changes, &cause))
            .await
    }

    async fn services_generation(&self) -> Result<u64> {
        self.look("reading a generation", generation).await
    }

    async fn service_changes_after(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Option<Vec<LoggedService>>> {
        self.look(READING, move |tx| {
            let sql = format!(
                "SELECT {COLUMNS} FROM patchbay_service_changes c WHERE c.generation > ?1 \
                 ORDER BY c.generation LIMIT ?2"
            );
            let bound = stored::generation_column(after);
            let rows = select(tx, &sql, params![bound, stored::limit_column(limit)])?;
            Ok(services::unbroken(rows, after, generation(tx)?, limit))
        })
        .await
    }

    async fn service_changes(
        &self,
        filter: &ServiceFilter,
        limit: usize,
    ) -> Result<Vec<LoggedService>> {
        let filter = filter.clone();
        self.look(READING, move |tx| {
            let sql = format!(
                "SELECT {COLUMNS} FROM patchbay_service_changes c \
                 WHERE (?1 IS NULL OR c.name = ?1) AND (?2 IS NULL OR c.at >= ?2) \
                 AND (?3 IS NULL OR c.at < ?3) AND (?4 IS NULL OR c.generation < ?4) \
                 ORDER BY c.generation DESC LIMIT ?5"
            );
            let rows = select(
                tx,
                &sql,
                params![
                    filter.name,
                    filter.since.map(micros),
                    filter.until.map(micros),
                    filter.before.map(stored::generation_column),
                    stored::limit_column(limit),
                ],
            )?;
            Ok(services::readable_changes(rows))
        })
        .await
    }

    async fn prune_service_changes(&self, before: DateTime<Utc>, limit: usize) -> Result<u64> {
        self.change("pruning changes of services", move |tx| {
            tx.prepare_cached(
                "DELETE FROM patchbay_service_changes WHERE generation IN \
                 (SELECT generation FROM patchbay_service_changes WHERE at < ?1 \
                 ORDER BY at LIMIT ?2)",
            )
            .and_then(|mut statement| {
                statement.execute(params![micros(before), stored::limit_column(limit)])
            })
            .map(|count| count as u64)
            .doing("pruning changes of services")
        })
        .await
    }
}

fn list(tx: &Transaction<'_>, name: Option<&str>) -> Result<ServiceList> {
    let rows: Vec<services::Row> = tx
        .prepare_cached(
            "SELECT name, origin, generation, definition, updated_at FROM patchbay_services \
             WHERE ?1 IS NULL OR name = ?1 ORDER BY name, origin",
        )
        .and_then(|mut statement| {
            let read = |row: &rusqlite::Row<'_>| {
                let updated_at = time(row, 4)?;
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    updated_at,
                ))
            };
            statement.query_map([name], read)?.collect()
        })
        .doing("listing services")?;
    Ok(ServiceList {
        services: services::readable(rows),
        generation: generation(tx)?,
    })
}

fn generation(tx: &Transaction<'_>) -> Result<u64> {
    let generation = tx
        .prepare_cached("SELECT generation FROM patchbay_services_generation")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .doing("reading a generation")?;
    stored::generation(generation)
}

fn change(
    tx: &Transaction<'_>,
    changes: Vec<ServiceChange>,
    cause: &Cause,
) -> Result<Vec<LoggedService>> {
    let now = timestamp::now();
    let mut logged = Vec::new();
    for change in changes {
        let wanted = change.definition.as_ref().map(services::written);
        let wanted = wanted.transpose()?;
        let origin = change.origin.to_string();
        let key = params![change.name, origin];
        let known: Option<String> = tx
            .prepare_cached(
                "SELECT definition FROM patchbay_services WHERE name = ?1 AND origin = ?2",
            )
            .and_then(|mut statement| statement.query_row(key, |row| row.get(0)).optional())
            .doing(CHANGING)?;
        if known == wanted {
            continue;
        }
        let next = "UPDATE patchbay_services_generation SET generation = generation + 1 \
                    RETURNING generation";
        let next: i64 = tx
            .prepare_cached(next)
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .doing(CHANGING)?;
        put(tx, &change, (&origin, next, wanted.as_deref()), now)?;
        execute(
            tx,
            "INSERT INTO patchbay_service_changes (generation, at, name, origin, definition, \
             actor, reason, detail, request_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                next,
                micros(now),
                change.name,
                origin,
                wanted,
                cause.actor.as_str(),
                cause.reason.as_str(),
                cause.detail,
                cause.request_id,
            ],
        )?;
        logged.push(LoggedService {
            published: Published {
                name: change.name,
                origin: change.origin,
                generation: stored::generation(next)?,
                definition: change.definition,
                request_id: cause.request_id.clone(),
            },
            at: now,
            cause: cause.clone(),
        });
    }
    let count = tx
        .prepare_cached("SELECT count(*) FROM patchbay_services")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .doing(CHANGING)?;
    if logged.iter().any(|one| one.published.definition.is_some()) {
        services::bound(count)?;
    }
    Ok(logged)
}

fn put(
    tx: &Transaction<'_>,
    change: &ServiceChange,
    (origin, generation, definition): (&str, i64, Option<&str>),
    now: DateTime<Utc>,
) -> Result<()> {
    match definition {
        Some(text) => execute(
            tx,
            "INSERT INTO patchbay_services (name, origin, generation, definition, updated_at) \
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (name, origin) DO UPDATE SET \
             generation = excluded.generation, definition = excluded.definition, \
             updated_at = excluded.updated_at",
            params![change.name, origin, generation, text, micros(now)],
        ),
        None => execute(
            tx,
            "DELETE FROM patchbay_services WHERE name = ?1 AND origin = ?2",
            params![change.name, origin],
        ),
    }
}

fn execute(tx: &Transaction<'_>, sql: &str, params: impl Params) -> Result<()> {
    tx.prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params))
        .map(drop)
        .doing(CHANGING)
}

fn select(tx: &Transaction<'_>, sql: &str, params: impl Params) -> Result<Vec<ChangeRow>> {
    let read = |row: &rusqlite::Row<'_>| {
        Ok(ChangeRow {
            generation: row.get(0)?,
            at: time(row, 1)?,
            name: row.get(2)?,
            origin: row.get(3)?,
            definition: row.get(4)?,
            actor: row.get(5)?,
            reason: row.get(6)?,
            detail: row.get(7)?,
            request_id: row.get(8)?,
        })
    };
    tx.prepare_cached(sql)
        .and_then(|mut statement| statement.query_map(params, read)?.collect())
        .doing(READING)
}
