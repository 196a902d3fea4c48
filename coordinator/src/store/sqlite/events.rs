//! Generations and the log of events in SQLite.

use chrono::{DateTime, Utc};
use patchbay_common::event::Change;
use patchbay_common::id::WorkerId;
use patchbay_common::timestamp;
use rusqlite::{OptionalExtension, Params, Transaction, params};

use super::rows::{self, micros};
use crate::store::error::Doing;
use crate::store::stored::{self, EventRow};
use crate::store::{LoggedEvent, Result};

const READING: &str = "reading events";

/// Takes the worker's next generation and logs the change under it.
pub(super) fn log(
    tx: &Transaction<'_>,
    worker: WorkerId,
    authority: &str,
    change: Change,
    request_id: Option<&str>,
) -> Result<u64> {
    const DOING: &str = "logging an event";
    let (name, body) = stored::event_parts(authority, change)?;
    let next: i64 = tx
        .prepare_cached(
            "INSERT INTO patchbay_generations (worker, generation) VALUES (?1, 1) \
             ON CONFLICT (worker) DO UPDATE SET generation = generation + 1 RETURNING generation",
        )
        .and_then(|mut statement| statement.query_row([worker.to_string()], |row| row.get(0)))
        .doing(DOING)?;
    tx.prepare_cached(
        "INSERT INTO patchbay_events (worker, generation, name, body, request_id, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .and_then(|mut statement| {
        statement.execute(params![
            worker.to_string(),
            next,
            name,
            body.to_string(),
            request_id,
            micros(timestamp::now()),
        ])
    })
    .doing(DOING)?;
    stored::generation(next)
}

/// The worker's generation.
pub(super) fn generation(tx: &Transaction<'_>, worker: WorkerId) -> Result<u64> {
    number(
        tx,
        "SELECT generation FROM patchbay_generations WHERE worker = ?1",
        worker,
    )
}

/// The highest generation the worker acknowledged.
pub(super) fn acknowledged(tx: &Transaction<'_>, worker: WorkerId) -> Result<u64> {
    number(
        tx,
        "SELECT acknowledged FROM patchbay_generations WHERE worker = ?1",
        worker,
    )
}

fn number(tx: &Transaction<'_>, sql: &str, worker: WorkerId) -> Result<u64> {
    let stored: Option<i64> = tx
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement
                .query_row([worker.to_string()], |row| row.get(0))
                .optional()
        })
        .doing("reading a generation")?;
    stored::generation(stored.unwrap_or(0))
}

/// Notes what the worker serves. It cannot acknowledge what has not happened.
pub(super) fn acknowledge(tx: &Transaction<'_>, worker: WorkerId, generation: u64) -> Result<()> {
    tx.prepare_cached(
        "UPDATE patchbay_generations SET acknowledged = max(acknowledged, min(?2, generation)) \
         WHERE worker = ?1",
    )
    .and_then(|mut statement| {
        statement.execute(params![
            worker.to_string(),
            stored::generation_column(generation)
        ])
    })
    .map(drop)
    .doing("noting an acknowledgement")
}

/// The events after a generation, if the log still holds all of them.
pub(super) fn after(
    tx: &Transaction<'_>,
    worker: WorkerId,
    after: u64,
    limit: usize,
) -> Result<Option<Vec<LoggedEvent>>> {
    let current = generation(tx, worker)?;
    let rows = select(
        tx,
        &format!(
            "SELECT {} FROM patchbay_events e WHERE e.worker = ?1 AND e.generation > ?2 \
             ORDER BY e.generation LIMIT ?3",
            rows::EVENT
        ),
        params![
            worker.to_string(),
            stored::generation_column(after),
            stored::limit_column(limit),
        ],
    )?;
    Ok(stored::unbroken(rows, after, current, limit))
}

/// Events not yet published, oldest first.
pub(super) fn unpublished(
    tx: &Transaction<'_>,
    before: DateTime<Utc>,
    limit: usize,
) -> Result<Vec<LoggedEvent>> {
    let rows = select(
        tx,
        &format!(
            "SELECT {} FROM patchbay_events e WHERE e.published_at IS NULL AND e.created_at < ?1 \
             ORDER BY e.created_at, e.generation LIMIT ?2",
            rows::EVENT
        ),
        params![micros(before), stored::limit_column(limit)],
    )?;
    Ok(stored::readable(rows))
}

fn select(tx: &Transaction<'_>, sql: &str, params: impl Params) -> Result<Vec<EventRow>> {
    tx.prepare_cached(sql)
        .and_then(|mut statement| statement.query_map(params, rows::event)?.collect())
        .doing(READING)
}

/// Notes that these events were published.
pub(super) fn mark_published(tx: &Transaction<'_>, events: &[(WorkerId, u64)]) -> Result<()> {
    const DOING: &str = "noting published events";
    let now = micros(timestamp::now());
    let mut statement = tx
        .prepare_cached(
            "UPDATE patchbay_events SET published_at = ?3 \
             WHERE worker = ?1 AND generation = ?2 AND published_at IS NULL",
        )
        .doing(DOING)?;
    for (worker, generation) in events {
        let generation = stored::generation_column(*generation);
        statement
            .execute(params![worker.to_string(), generation, now])
            .doing(DOING)?;
    }
    Ok(())
}

/// Forgets published events.
pub(super) fn prune(tx: &Transaction<'_>, before: DateTime<Utc>) -> Result<u64> {
    tx.prepare_cached(
        "DELETE FROM patchbay_events WHERE published_at IS NOT NULL AND created_at < ?1",
    )
    .and_then(|mut statement| statement.execute([micros(before)]))
    .map(|count| count as u64)
    .doing("pruning events")
}
