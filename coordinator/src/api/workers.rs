//! `/api/worker*` (contract/rest-coordinator.md §7, worker routes).

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use patchbay_common::circuit::{AppMode, Circuit};
use patchbay_common::id::WorkerId;
use patchbay_common::worker::{AppFilter, Registration, Worker};
use serde_json::{Value, json};

use super::auth::Authorized;
use super::error::ApiError;
use super::json::{Answer, CONTENT_TYPE_JSON, to_vec};
use super::params::{self, Fields, Misfit, Params};
use super::{App, view};

/// By this header a worker of ours names its node when it sends no body.
const NODE_HEADER: &str = "x-patchbay-node";

/// A path segment as an id. One that is no UUID names nothing.
pub(crate) fn id<T: std::str::FromStr>(segment: &str, noun: &'static str) -> Result<T, ApiError> {
    segment.parse().map_err(|_| ApiError::NoSuch(noun))
}

/// The node that speaks, where it gives its name.
pub(crate) fn node(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(NODE_HEADER)?
        .to_str()
        .ok()
        .filter(|name| !name.is_empty())
}

async fn full(app: &App, worker: Worker) -> Result<Response, ApiError> {
    let held = app.store.held_slots(worker.id).await?;
    let held = held.ok_or(ApiError::NoSuch("worker"))?;
    Ok(Answer(view::full(worker, held)).into_response())
}

/// `GET /api/worker`.
pub(crate) async fn list(_: Authorized, State(app): State<App>) -> Result<Response, ApiError> {
    let mut workers = Vec::new();
    for worker in app.store.workers().await? {
        if let Some(held) = app.store.held_slots(worker.id).await? {
            workers.push(view::full(worker, held));
        }
    }
    Ok(Answer(json!({ "workers": workers })).into_response())
}

/// `PUT /api/worker`.
pub(crate) async fn register(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let registration = registration(&params)?;
    let worker = app.registry.register(&registration).await?;
    full(&app, worker).await
}

/// `GET /api/worker/{id}`.
pub(crate) async fn read(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
) -> Result<Response, ApiError> {
    let worker = app.store.worker(id(&segment, "worker")?).await?;
    full(&app, worker.ok_or(ApiError::NoSuch("worker"))?).await
}

/// `PATCH /api/worker/{id}`: a heartbeat.
pub(crate) async fn heartbeat(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (id, node) = (id(&segment, "worker")?, node(&headers));
    let worker = app.registry.heartbeat(id, node).await?;
    if node.is_none() {
        return full(&app, worker).await;
    }
    let generation = app.store.generation(worker.id).await?;
    let mut answer = view::brief(worker, generation);
    answer.services_generation = Some(app.store.services_generation().await?);
    Ok(Answer(answer).into_response())
}

/// `DELETE /api/worker/{id}`: a node leaves.
pub(crate) async fn leave(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    app.registry
        .leave(id(&segment, "worker")?, node(&headers))
        .await?;
    Ok(Answer(json!({"success": true})).into_response())
}

/// Circuits written at once.
const PIECE: usize = 64;

/// `GET /api/worker/{id}/circuits`, written while it is sent: a worker may hold tens of thousands.
pub(crate) async fn circuits(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
) -> Result<Response, ApiError> {
    let held = app.store.worker_circuits(id(&segment, "worker")?).await?;
    let held = held.ok_or(ApiError::NoSuch("worker"))?;
    let tail = format!("], \"generation\": {}}}", held.generation);
    let mut left = held.circuits.into_iter();
    let mut head = Some("{\"circuits\": [");
    let pieces = std::iter::from_fn(move || {
        let first = head.take();
        let piece: Vec<Circuit> = left.by_ref().take(PIECE).collect();
        if piece.is_empty() {
            return first.map(|head| Ok(head.into()));
        }
        Some(written(first, &piece))
    });
    let pieces = pieces.chain([Ok(Bytes::from(tail))]);
    let body = Body::from_stream(stream::iter(pieces));
    Ok(([(CONTENT_TYPE, CONTENT_TYPE_JSON)], body).into_response())
}

/// A piece of the list, behind its head or behind the pieces before.
fn written(head: Option<&str>, circuits: &[Circuit]) -> serde_json::Result<Bytes> {
    let mut text = head.unwrap_or_default().as_bytes().to_vec();
    for (place, circuit) in circuits.iter().enumerate() {
        if head.is_none() || place > 0 {
            text.extend_from_slice(b", ");
        }
        text.extend(to_vec(circuit)?);
    }
    Ok(text.into())
}

/// `POST /api/worker/{id}/acknowledgements`: the worker serves everything up to a generation.
pub(crate) async fn acknowledge(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let worker: WorkerId = id(&segment, "worker")?;
    let generation = acknowledged(&params)?;
    // A worker cannot be ahead of the changes there are; such a claim would let later openers
    // through unserved.
    let known = app.store.generation(worker).await?;
    if generation > known {
        return Err(ahead(&params, known));
    }
    app.acknowledgements.reached(worker, generation);
    app.store.acknowledge(worker, generation).await?;
    Ok(Answer(json!({"success": true})).into_response())
}

fn acknowledged(params: &Params) -> Result<u64, ApiError> {
    let fields = params.fields();
    let generation = fields.required("generation", |value| {
        value
            .as_u64()
            .ok_or_else(|| ("int_type", "Input should be a whole number from 0".into()))
    });
    generation.ok_or_else(|| fields.incomplete())
}

fn ahead(params: &Params, known: u64) -> ApiError {
    let fields = params.fields();
    let fix = format!("Input should be at most {known}");
    fields.refuse("generation", ("less_than_equal", fix));
    fields.incomplete()
}

/// A registration out of a body.
pub(crate) fn registration(params: &Params) -> Result<Registration, ApiError> {
    let fields = params.fields();
    let required = (
        fields.required("authority", params::filled),
        fields.required("frontend_mode", params::word),
        fields.required("protocol", params::protocol),
        fields.required("hostname", params::filled),
        fields.required("tls_listen", params::flag),
        fields.required("tls_advertised", params::flag),
        fields.required("api_port", params::port),
        fields.required("filtered_apps_only", params::flag),
        fields.required("accepted_traffics", modes),
    );
    let registration = (|| {
        Some(Registration {
            authority: required.0?,
            frontend_mode: required.1?,
            protocol: required.2?,
            hostname: required.3?,
            tls_listen: required.4?,
            tls_advertised: required.5?,
            api_port: required.6?,
            filtered_apps_only: required.7?,
            accepted_traffics: required.8?,
            app_filters: fields.optional("app_filters", filters).unwrap_or_default(),
            traefik_last_used_marker_path: fields
                .optional("traefik_last_used_marker_path", params::text),
            port_range: fields.optional("port_range", range),
            wildcard_domain: fields.optional("wildcard_domain", params::text),
            wildcard_traffic_port: fields.optional("wildcard_traffic_port", params::port),
            node_id: node_id(&fields),
        })
    })();
    fields.verdict()?;
    registration.ok_or_else(|| fields.incomplete())
}

fn node_id(fields: &Fields<'_>) -> Option<String> {
    fields.optional("node_id", params::filled)
}

fn modes(value: &Value) -> Result<Vec<AppMode>, Misfit> {
    params::word(value)
}

fn filters(value: &Value) -> Result<Vec<AppFilter>, Misfit> {
    params::word(value)
}

fn range(value: &Value) -> Result<(u16, u16), Misfit> {
    match value.as_array().map(Vec::as_slice) {
        Some([first, last]) => Ok((params::port(first)?, params::port(last)?)),
        _ => Err((
            "tuple_type",
            "Input should be the first and the last port".into(),
        )),
    }
}
