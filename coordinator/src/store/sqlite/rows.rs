//! SQLite's forms of values, and its rows.

use chrono::{DateTime, Utc};
use rusqlite::Row;
use rusqlite::types::Type;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use crate::store::stored::{CircuitRow, EventRow, WorkerRow};

/// Columns of `circuits c`, as [`circuit`] reads them.
pub(super) const CIRCUIT: &str = "c.id, c.app, c.protocol, c.worker, c.app_mode, c.frontend_mode, \
     c.port, c.subdomain, c.envs, c.arguments, c.open_to_public, c.allowed_client_ips, c.user_id, \
     c.endpoint_id, c.runtime_variant, c.session_ids, c.route_info, c.created_at, c.updated_at, \
     c.origin_request_id, \
     (SELECT p.health_check_config FROM endpoints p WHERE p.id = c.endpoint_id), c.revocations";

/// Columns of `workers w`, as [`worker`] reads them.
pub(super) const WORKER: &str = "w.id, w.authority, w.frontend_mode, w.protocol, w.hostname, \
     w.tls_listen, w.tls_advertised, w.api_port, w.port_range, w.wildcard_domain, \
     w.wildcard_traffic_port, w.filtered_apps_only, w.traefik_last_used_marker_path, \
     w.accepted_traffics, w.created_at, w.updated_at, w.available_slots, \
     w.occupied_slots, w.nodes, w.status";

/// Columns of `patchbay_events e`, as [`event`] reads them.
pub(super) const EVENT: &str = "e.worker, e.generation, e.name, e.body, e.request_id, e.created_at";

/// A time as it is stored: microseconds since 1970.
pub(super) fn micros(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros()
}

/// Reads a row of `circuits`.
pub(super) fn circuit(row: &Row<'_>) -> rusqlite::Result<CircuitRow> {
    Ok(CircuitRow {
        id: uuid(row, 0)?,
        app: row.get(1)?,
        protocol: row.get(2)?,
        worker: uuid(row, 3)?,
        app_mode: row.get(4)?,
        frontend_mode: row.get(5)?,
        port: row.get(6)?,
        subdomain: row.get(7)?,
        envs: Some(loose_json(row, 8)?),
        arguments: row.get(9)?,
        open_to_public: row.get(10)?,
        allowed_client_ips: row.get(11)?,
        user_id: optional_uuid(row, 12)?,
        endpoint_id: optional_uuid(row, 13)?,
        runtime_variant: row.get(14)?,
        session_ids: json(row, 15)?,
        route_info: loose_json(row, 16)?,
        created_at: Some(time(row, 17)?),
        updated_at: Some(time(row, 18)?),
        origin_request_id: row.get(19)?,
        health_check: optional_json(row, 20)?,
        revocations: row.get(21)?,
    })
}

/// Reads a row of `workers`.
pub(super) fn worker(row: &Row<'_>) -> rusqlite::Result<WorkerRow> {
    let port_range: Option<String> = row.get(8)?;
    Ok(WorkerRow {
        id: uuid(row, 0)?,
        authority: row.get(1)?,
        frontend_mode: row.get(2)?,
        protocol: row.get(3)?,
        hostname: row.get(4)?,
        tls_listen: row.get(5)?,
        tls_advertised: row.get(6)?,
        api_port: row.get(7)?,
        port_range: port_range.map(|_| json(row, 8)).transpose()?,
        wildcard_domain: row.get(9)?,
        wildcard_traffic_port: row.get(10)?,
        filtered_apps_only: row.get(11)?,
        traefik_last_used_marker_path: row.get(12)?,
        accepted_traffics: json(row, 13)?,
        created_at: Some(time(row, 14)?),
        updated_at: Some(time(row, 15)?),
        available_slots: row.get(16)?,
        occupied_slots: row.get(17)?,
        nodes: row.get(18)?,
        status: row.get(19)?,
    })
}

/// Reads a row of `patchbay_events`.
pub(super) fn event(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    Ok(EventRow {
        worker: uuid(row, 0)?,
        generation: row.get(1)?,
        name: row.get(2)?,
        body: row.get(3)?,
        request_id: row.get(4)?,
        created_at: time(row, 5)?,
    })
}

/// A key out of its text.
pub(super) fn uuid(row: &Row<'_>, column: usize) -> rusqlite::Result<Uuid> {
    let text: String = row.get(column)?;
    Uuid::parse_str(&text).map_err(|cause| unreadable(column, cause))
}

pub(super) fn optional_uuid(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Uuid>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| Uuid::parse_str(&text).map_err(|cause| unreadable(column, cause)))
        .transpose()
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<DateTime<Utc>> {
    let micros: i64 = row.get(column)?;
    DateTime::from_timestamp_micros(micros)
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(column, micros))
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|cause| unreadable(column, cause))
}

/// JSON where there is any that can be read.
fn optional_json(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Value>> {
    let text: Option<String> = row.get(column)?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// JSON, or the text itself if it is none: the reader of the row says what is wrong with it.
fn loose_json(row: &Row<'_>, column: usize) -> rusqlite::Result<Value> {
    let text: String = row.get(column)?;
    Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn unreadable(
    column: usize,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(cause))
}
