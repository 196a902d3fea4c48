//! `/api/services`: services of the gateway, and what became of them.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream;
use http::HeaderMap;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use patchbay_common::gateway::{Definition, Origin};
use patchbay_common::timestamp;
use serde::Serialize;
use serde_json::json;

use super::App;
use super::audit::cursor;
use super::auth::Authorized;
use super::error::ApiError;
use super::events;
use super::json::Answer;
use super::params::{self, Params};
use crate::publish::{ServiceFeed, ServiceItem};
use crate::store::{Actor, Cause, LoggedService, Reason, ServiceFilter, StoredService};

/// Rows on a page that does not say how many it wants.
const PAGE: usize = 100;
/// Most rows on a page.
const LONGEST_PAGE: usize = 1_000;

#[derive(Serialize)]
struct View {
    name: String,
    origin: Origin,
    generation: u64,
    #[serde(with = "timestamp")]
    updated_at: DateTime<Utc>,
    definition: Option<Definition>,
    /// Other origins that know a service of this name, where one is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    also: Option<Vec<Origin>>,
}

impl View {
    fn new(stored: StoredService, also: Option<Vec<Origin>>) -> Self {
        Self {
            name: stored.published.name,
            origin: stored.published.origin,
            generation: stored.published.generation,
            updated_at: stored.updated_at,
            definition: stored.published.definition,
            also,
        }
    }
}

/// `GET /api/services`: all of them, of all origins.
pub(crate) async fn list(_: Authorized, State(app): State<App>) -> Result<Response, ApiError> {
    let list = app.store.services(None).await?;
    let services = list.services.into_iter().map(|one| View::new(one, None));
    let services: Vec<View> = services.collect();
    let generation = list.generation;
    Ok(Answer(json!({ "services": services, "generation": generation })).into_response())
}

/// `GET /api/services/{name}`: the one that is in force.
pub(crate) async fn read(
    _: Authorized,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let (service, also) = app.services.get(&name).await?;
    Ok(Answer(View::new(service, Some(also))).into_response())
}

/// `PUT /api/services/{name}`: it is to be so.
pub(crate) async fn put(
    _: Authorized,
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let written = params.into_value();
    let put = app.services.put(&name, written, &Cause::manager()).await;
    let (service, also) = put?;
    Ok(Answer(View::new(service, Some(also))).into_response())
}

/// `DELETE /api/services/{name}`: it is to be gone.
pub(crate) async fn remove(
    _: Authorized,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    app.services.remove(&name, &Cause::manager()).await?;
    Ok(Answer(json!({"success": true})).into_response())
}

#[derive(Serialize)]
struct Page {
    entries: Vec<Entry>,
    /// What `cursor` is to be for the next page; null on the last one.
    next: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    generation: u64,
    #[serde(with = "timestamp")]
    at: DateTime<Utc>,
    name: String,
    origin: Origin,
    action: &'static str,
    definition: Option<Definition>,
    actor: Actor,
    reason: Reason,
    detail: Option<String>,
    request_id: Option<String>,
}

impl From<LoggedService> for Entry {
    fn from(logged: LoggedService) -> Self {
        Self {
            generation: logged.published.generation,
            at: logged.at,
            name: logged.published.name,
            origin: logged.published.origin,
            action: match logged.published.definition {
                Some(_) => "put",
                None => "removed",
            },
            definition: logged.published.definition,
            actor: logged.cause.actor,
            reason: logged.cause.reason,
            detail: logged.cause.detail,
            request_id: logged.cause.request_id,
        }
    }
}

/// `GET /api/services/_/audit`, filtered by `service`, `since` and `until`: what became of services,
/// the newest first; `limit` rows after `cursor`.
pub(crate) async fn audit(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let (filter, limit) = asked(&params)?;
    let mut entries = app
        .store
        .service_changes(&filter, limit.saturating_add(1))
        .await?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let last = entries.last().filter(|_| more);
    Ok(Answer(Page {
        next: last.map(|entry| entry.published.generation.to_string()),
        entries: entries.into_iter().map(Entry::from).collect(),
    })
    .into_response())
}

fn asked(params: &Params) -> Result<(ServiceFilter, usize), ApiError> {
    let fields = params.fields();
    let filter = ServiceFilter {
        name: fields.optional("service", params::filled),
        since: fields.optional("since", params::time),
        until: fields.optional("until", params::time),
        before: fields.optional("cursor", cursor),
    };
    let limit = fields.optional("limit", |value| params::limit(value, LONGEST_PAGE));
    fields.verdict()?;
    Ok((filter, limit.unwrap_or(PAGE)))
}

/// `GET /api/services/_/events`: changes as server-sent events. `hello` tells the generation, then
/// every change follows as `service` with its generation as its id; a reader that comes back with
/// `Last-Event-ID` (or `?after=`) misses nothing, or is told to `resync`.
pub(crate) async fn listen(
    _: Authorized,
    State(app): State<App>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    let after = events::place(&headers, &params)?;
    let feed = app.services.feeds().open(after).await?;
    let feed = feed.ok_or(ApiError::Busy("too many event streams are open"))?;
    let body = Body::from_stream(stream::unfold(Some((app, feed)), turn));
    let head = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    Ok((head, body).into_response())
}

type Turn = (Result<Bytes, Infallible>, Option<(App, ServiceFeed)>);

/// The next piece of the body. The stream ends with the process, and where the store fails: the
/// reader returns and resumes.
async fn turn(state: Option<(App, ServiceFeed)>) -> Option<Turn> {
    let (app, mut feed) = state?;
    let item = tokio::select! {
        item = feed.next() => item,
        () = app.drain.stopping() => return None,
    };
    match item {
        Ok(item) => Some((Ok(frame(&item)), Some((app, feed)))),
        Err(error) => {
            log::warn!("a stream of services ends: {error}");
            None
        }
    }
}

fn frame(item: &ServiceItem) -> Bytes {
    match item {
        ServiceItem::Hello(generation) => events::note("hello", *generation),
        ServiceItem::Resync(generation) => events::note("resync", *generation),
        ServiceItem::KeepAlive => Bytes::from_static(events::KEEP_ALIVE),
        ServiceItem::Change(change) => {
            let generation = change.published.generation;
            match serde_json::to_string(&change.published) {
                Ok(body) => format!("id: {generation}\nevent: service\ndata: {body}\n\n").into(),
                // The reader fetches everything instead of missing one change.
                Err(error) => {
                    log::error!("a change of a service cannot be written: {error}");
                    events::note("resync", generation)
                }
            }
        }
    }
}
