//! `GET /api/worker/{id}/events`: a worker's changes as server-sent events.
//!
//! `hello` tells the generation, then every change follows under its wire name with the generation
//! as its id; a reader that comes back with `Last-Event-ID` (or `?after=`) misses nothing, or is
//! told to `resync`.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use patchbay_common::id::WorkerId;
use serde_json::{Value, json};

use super::App;
use super::auth::Authorized;
use super::error::ApiError;
use super::params::Params;
use super::workers::id;
use crate::publish::{Feed, Item};
use crate::store::LoggedEvent;

const LAST_EVENT_ID: &str = "last-event-id";
/// What a quiet stream says.
pub(super) const KEEP_ALIVE: &[u8] = b": still here\n\n";

/// Opens the stream.
pub(crate) async fn listen(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    let worker: WorkerId = id(&segment, "worker")?;
    let after = place(&headers, &params)?;
    if app.store.worker(worker).await?.is_none() {
        return Err(ApiError::NoSuch("worker"));
    }
    let feed = app.streams.open(app.store.clone(), worker, after).await?;
    let feed = feed.ok_or(ApiError::Busy("too many event streams are open"))?;
    log::info!(worker = worker.to_string().as_str(); "a worker listens");
    let body = Body::from_stream(stream::unfold(Some((app, feed)), turn));
    let head = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    Ok((head, body).into_response())
}

/// The reader's place: the header that browsers resend wins over the query.
pub(super) fn place(headers: &HeaderMap, params: &Params) -> Result<Option<u64>, ApiError> {
    let fields = params.fields();
    let header = headers.get(LAST_EVENT_ID).map(|value| {
        let place = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok());
        place.ok_or_else(|| ApiError::BadRequest("Last-Event-ID is not a generation".into()))
    });
    let after = fields.optional("after", |value| {
        let text = value
            .as_str()
            .map(str::to_owned)
            .unwrap_or_else(|| value.to_string());
        text.parse()
            .map_err(|_| ("int_parsing", "Input should be a generation".into()))
    });
    fields.verdict()?;
    header.transpose().map(|place| place.or(after))
}

type Turn = (Result<Bytes, Infallible>, Option<(App, Feed)>);

/// The next piece of the body. The stream ends with the process, and where the store fails: the
/// reader returns and resumes.
async fn turn(state: Option<(App, Feed)>) -> Option<Turn> {
    let (app, mut feed) = state?;
    let item = tokio::select! {
        item = feed.next() => item,
        () = app.drain.stopping() => return None,
    };
    match item {
        Ok(item) => Some((Ok(frame(&item)), Some((app, feed)))),
        Err(error) => {
            log::warn!("an event stream ends: {error}");
            None
        }
    }
}

fn frame(item: &Item) -> Bytes {
    match item {
        Item::Hello(generation) => note("hello", *generation),
        Item::Resync(generation) => note("resync", *generation),
        Item::Event(event) => change(event, true),
        Item::Again(event) => change(event, false),
        Item::KeepAlive => Bytes::from_static(KEEP_ALIVE),
    }
}

pub(super) fn note(name: &str, generation: u64) -> Bytes {
    format!(
        "event: {name}\ndata: {}\n\n",
        json!({ "generation": generation })
    )
    .into()
}

fn change(event: &LoggedEvent, advances: bool) -> Bytes {
    let body = match event.event.body() {
        Ok(Value::Object(mut body)) => {
            body.insert("request_id".into(), json!(event.request_id));
            Value::Object(body)
        }
        Ok(_) => return note("resync", event.generation),
        Err(error) => {
            // The reader fetches everything instead of missing one change.
            log::error!("an event cannot be written: {error}");
            return note("resync", event.generation);
        }
    };
    let id = if advances {
        format!("id: {}\n", event.generation)
    } else {
        String::new()
    };
    format!("{id}event: {}\ndata: {body}\n\n", event.event.name()).into()
}
