//! `/workers`: the workers of `/api/worker`, by the names of the coordinator's own document.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use patchbay_common::circuit::Circuit;
use patchbay_common::id::WorkerId;
use patchbay_common::worker::{Worker, WorkerStatus, WorkerView};
use serde::Serialize;
use serde_json::json;

use super::auth::Authorized;
use super::error::ApiError;
use super::json::Answer;
use super::params::Params;
use super::workers::{id, node, registration};
use super::{App, view};

#[derive(Serialize)]
struct Joined {
    worker_id: WorkerId,
    generation: u64,
    routes: Vec<Circuit>,
}

/// `POST /workers/register`: takes a worker in; answers with its key and the circuits it has to
/// serve.
pub(crate) async fn register(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let registration = registration(&params)?;
    let worker = app.registry.register(&registration).await?;
    let held = app.store.worker_circuits(worker.id).await?;
    let held = held.ok_or(ApiError::NoSuch("worker"))?;
    Ok(Answer(Joined {
        worker_id: worker.id,
        generation: held.generation,
        routes: held.circuits,
    })
    .into_response())
}

#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    worker: WorkerView,
    status: WorkerStatus,
}

/// `GET /workers`: all workers, without their slots.
pub(crate) async fn list(_: Authorized, State(app): State<App>) -> Result<Response, ApiError> {
    let mut workers = Vec::new();
    for worker in app.store.workers().await? {
        let generation = app.store.generation(worker.id).await?;
        workers.push(listed(worker, generation));
    }
    Ok(Answer(json!({ "workers": workers })).into_response())
}

fn listed(worker: Worker, generation: u64) -> Listed {
    Listed {
        status: worker.status,
        worker: view::brief(worker, generation),
    }
}

/// `DELETE /workers/{id}`: the worker says good-bye, or one node of it where the caller names one.
/// Its circuits go to another worker after the heartbeat time-out, or wait for its return.
pub(crate) async fn leave(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = id(&segment, "worker")?;
    app.registry.leave(id, node(&headers)).await?;
    Ok(Answer(json!({"success": true})).into_response())
}
