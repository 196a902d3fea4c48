//! `GET /api/audit`: what became of circuits, the newest first.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use patchbay_common::id::{CircuitId, EndpointId, SessionId, UserId, WorkerId};
use patchbay_common::timestamp;
use serde::Serialize;
use serde_json::Value;

use super::App;
use super::auth::Authorized;
use super::error::ApiError;
use super::json::Answer;
use super::params::{self, Misfit, Params};
use crate::store::{Action, Actor, AuditEntry, AuditFilter, Reason};

/// Rows on a page that does not say how many it wants.
const PAGE: usize = 100;
/// Most rows on a page.
const LONGEST_PAGE: usize = 1_000;

#[derive(Serialize)]
struct Page {
    entries: Vec<Entry>,
    /// What `cursor` is to be for the next page; null on the last one.
    next: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    id: u64,
    #[serde(with = "timestamp")]
    at: DateTime<Utc>,
    action: Action,
    circuit: CircuitId,
    app: Option<String>,
    session_ids: Vec<SessionId>,
    endpoint_id: Option<EndpointId>,
    user_id: Option<UserId>,
    worker: WorkerId,
    authority: String,
    slot: String,
    from_worker: Option<WorkerId>,
    from_authority: Option<String>,
    actor: Actor,
    reason: Reason,
    detail: Option<String>,
    request_id: Option<String>,
}

impl From<AuditEntry> for Entry {
    fn from(entry: AuditEntry) -> Self {
        let (from_worker, from_authority) = entry.from.unzip();
        Self {
            id: entry.seq,
            at: entry.at,
            action: entry.action,
            circuit: entry.circuit,
            app: entry.app,
            session_ids: entry.session_ids,
            endpoint_id: entry.endpoint_id,
            user_id: entry.user_id,
            worker: entry.worker,
            authority: entry.authority,
            slot: entry.slot,
            from_worker,
            from_authority,
            actor: entry.cause.actor,
            reason: entry.cause.reason,
            detail: entry.cause.detail,
            request_id: entry.cause.request_id,
        }
    }
}

/// `GET /api/audit`, filtered by `circuit`, `session`, `worker` (key or name), `action`, `since`
/// and `until`; `limit` rows after `cursor`.
pub(crate) async fn list(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let (mut filter, worker, limit) = asked(&params)?;
    if let Some(name) = worker {
        filter.worker = Some(key(&app, &name).await?);
    }
    let mut entries = app.store.audit(&filter, limit.saturating_add(1)).await?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let last = entries.last().filter(|_| more);
    Ok(Answer(Page {
        next: last.map(|entry| entry.seq.to_string()),
        entries: entries.into_iter().map(Entry::from).collect(),
    })
    .into_response())
}

/// The key of a worker that is named by its key, which it may have outlived, or by its name.
async fn key(app: &App, name: &str) -> Result<WorkerId, ApiError> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let worker = app.store.worker_by_authority(name).await?;
    Ok(worker.ok_or(ApiError::NoSuch("worker"))?.id)
}

fn asked(params: &Params) -> Result<(AuditFilter, Option<String>, usize), ApiError> {
    let fields = params.fields();
    let filter = AuditFilter {
        circuit: fields.optional("circuit", params::uuid),
        session: fields.optional("session", params::uuid),
        worker: None,
        action: fields.optional("action", action),
        since: fields.optional("since", params::time),
        until: fields.optional("until", params::time),
        before: fields.optional("cursor", cursor),
    };
    let worker = fields.optional("worker", params::filled);
    let limit = fields.optional("limit", limit).unwrap_or(PAGE);
    fields.verdict()?;
    Ok((filter, worker, limit))
}

fn action(value: &Value) -> Result<Action, Misfit> {
    let known = value.as_str().and_then(Action::from_text);
    known.ok_or_else(|| {
        let words: Vec<&str> = Action::ALL.iter().map(|word| word.as_str()).collect();
        (
            "enum",
            format!("Input should be one of {}", words.join(", ")),
        )
    })
}

fn limit(value: &Value) -> Result<usize, Misfit> {
    params::limit(value, LONGEST_PAGE)
}

/// The place of a row: the `next` of the page before.
pub(super) fn cursor(value: &Value) -> Result<u64, Misfit> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| {
        let fix = "Input should be the `next` of the page before";
        ("int_parsing", fix.into())
    })
}
