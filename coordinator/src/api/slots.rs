//! `/api/slots` and the shapes of version 1 (contract/rest-coordinator.md §7).

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use patchbay_common::timestamp;
use patchbay_common::worker::Worker;
use serde_json::{Value, json};

use super::auth::Authorized;
use super::error::ApiError;
use super::json::Answer;
use super::params::{self, Params};
use super::{App, view};

/// `GET /api/slots`: those in use, or all, of one worker or of all.
pub(crate) async fn list(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let (authority, used_only) = {
        let fields = params.fields();
        let authority = fields.optional("wsproxy_host", params::text);
        let used_only = fields.optional("in_use", params::flag).unwrap_or(true);
        fields.verdict()?;
        (authority, used_only)
    };
    let workers = match authority {
        None => app.store.workers().await?,
        Some(name) => {
            let worker = app.store.worker_by_authority(&name).await?;
            vec![worker.ok_or(ApiError::NoSuch("worker"))?]
        }
    };
    let mut slots = Vec::new();
    for worker in workers {
        if let Some(held) = app.store.held_slots(worker.id).await? {
            let all = view::slots(&worker, held.slots);
            slots.extend(all.into_iter().filter(|slot| slot.in_use || !used_only));
        }
    }
    Ok(Answer(json!({ "slots": slots })).into_response())
}

/// `GET /v1/api/slots`: the circuits of every worker.
pub(crate) async fn list_v1(_: Authorized, State(app): State<App>) -> Result<Response, ApiError> {
    let mut slots = Vec::new();
    for worker in app.store.workers().await? {
        let Some(held) = app.store.worker_circuits(worker.id).await? else {
            continue;
        };
        slots.extend(held.circuits.into_iter().map(|circuit| {
            let envs = (!circuit.envs.is_empty()).then(|| Value::Object(circuit.envs).to_string());
            json!({
                "rel": circuit.id,
                "port": circuit.port,
                "subdomain": circuit.subdomain,
                "wsproxy_version": "v2",
                "worker__authority": worker.authority,
                "circuit__app": circuit.app,
                "circuit__session_id": circuit.session_ids.first(),
                "circuit__open_to_public": circuit.open_to_public,
                "circuit__allowed_client_ips": circuit.allowed_client_ips,
                "circuit__envs": envs,
                "circuit__arguments": circuit.arguments,
                "circuit__created": timestamp::format(&circuit.created_at),
                "circuit__modified": timestamp::format(&circuit.updated_at),
            })
        }));
    }
    Ok(Answer(slots).into_response())
}

/// `GET /v1/api/worker`.
pub(crate) async fn workers_v1(
    _: Authorized,
    State(app): State<App>,
) -> Result<Response, ApiError> {
    let workers: Vec<Value> = app.store.workers().await?.iter().map(worker_v1).collect();
    Ok(Answer(workers).into_response())
}

fn worker_v1(worker: &Worker) -> Value {
    json!({
        "authority": worker.authority,
        "endpoint": view::endpoint(worker),
        "total_slots": worker.available_slots,
        "ports_in_use": worker.occupied_slots,
        "min_range": worker.port_range.map(|(first, _)| first),
        "max_range": worker.port_range.map(|(_, last)| last),
        "wildcard_domain": worker.wildcard_domain,
        "created": timestamp::format(&worker.created_at),
        "updated": timestamp::format(&worker.updated_at),
    })
}
