//! `/api/circuit/{id}` (contract/rest-coordinator.md §7, circuit routes).

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use patchbay_common::circuit::Circuit;
use patchbay_common::id::CircuitId;
use patchbay_common::timestamp;
use patchbay_common::worker::WorkerStatus;
use serde::Serialize;
use serde_json::{Value, json};

use super::App;
use super::auth::Authorized;
use super::error::ApiError;
use super::json::Answer;
use super::params::{self, Misfit, Params};
use super::route_health;
use super::workers::id;
use crate::store::Cause;

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    circuit: Circuit,
    /// Its worker is believed to serve.
    available: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<serde_json::Value>,
}

/// `GET /api/circuit/{id}`, with `health=1` how its routes are, too.
pub(crate) async fn read(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let health = {
        let fields = params.fields();
        let health = fields.optional("health", params::flag).unwrap_or(false);
        fields.verdict()?;
        health
    };
    let circuit = app.store.circuit(id(&segment, "circuit")?).await?;
    let circuit = circuit.ok_or(ApiError::NoSuch("circuit"))?;
    let worker = app.store.worker(circuit.worker).await?;
    let available = worker.is_some_and(|worker| worker.status == WorkerStatus::Alive);
    let health = match health {
        true => Some(route_health::of(&app, &circuit).await?),
        false => None,
    };
    let shown = Shown {
        circuit,
        available,
        health,
    };
    Ok(Answer(shown).into_response())
}

#[derive(Serialize)]
struct Statistics {
    #[serde(flatten)]
    circuit: Circuit,
    requests: u64,
    last_access: i64,
    ttl: Option<u64>,
}

/// `GET /api/circuit/{id}/statistics`.
pub(crate) async fn statistics(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
) -> Result<Response, ApiError> {
    let circuit = app.store.circuit(id(&segment, "circuit")?).await?;
    let circuit = circuit.ok_or(ApiError::NoSuch("circuit"))?;
    let usage = app.marks.of(&circuit, timestamp::now()).await;
    Ok(Answer(Statistics {
        circuit,
        requests: usage.requests,
        last_access: usage.last_access,
        ttl: usage.ttl,
    })
    .into_response())
}

/// `DELETE /api/circuit/_/bulk`: those that exist of these.
pub(crate) async fn close_many(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let ids = {
        let fields = params.fields();
        let ids = fields.required("circuit_ids", listed);
        fields.verdict()?;
        ids.ok_or_else(|| fields.incomplete())?
    };
    app.closer.close_all(&ids, &Cause::manager()).await?;
    Ok(Answer(json!({"success": true})).into_response())
}

/// Ids as a list, or in one text with commas between.
fn listed(value: &Value) -> Result<Vec<CircuitId>, Misfit> {
    let one = |text: &str| params::uuid(&Value::String(text.to_owned()));
    match value {
        Value::String(text) => text
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(one)
            .collect(),
        Value::Array(ids) => ids.iter().map(params::uuid).collect(),
        _ => Err(("list_type", "Input should be a list of UUIDs".into())),
    }
}

/// `DELETE /api/circuit/{id}`.
pub(crate) async fn close(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
) -> Result<Response, ApiError> {
    let id = id(&segment, "circuit")?;
    app.closer.close(id, &Cause::manager()).await?;
    Ok(Answer(json!({"success": true})).into_response())
}
