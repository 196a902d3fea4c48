//! `/v2/endpoints/bulk*`: answers hold one entry for each entry of the request, in its order.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use patchbay_common::id::{EndpointId, RouteId};
use serde::Serialize;
use serde_json::{Value, json};

use super::read;
use crate::api::auth::Authorized;
use crate::api::error::ApiError;
use crate::api::json::Answer;
use crate::api::params::Params;
use crate::api::{App, view};
use crate::store::{RouteChange, RoutesChanged};

/// What callers read when the store fails; the log has the reason.
const STORE_FAILED: &str = "Error while communicating with database.";

/// `POST /v2/endpoints/bulk`.
pub(crate) async fn open(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let openings = read::items(&params, |item| read::opening(item, read::deployment(item)?))?;
    let checked: Vec<bool> = openings.iter().map(|o| o.health_check.is_some()).collect();
    let opened = app.endpoints.open(openings).await?;
    let entry = |(opened, checked): (&crate::store::Opened, bool)| {
        json!({
            "deployment_id": opened.circuit.endpoint_id,
            "url": format!("{}/", view::circuit_url(&opened.circuit, &opened.worker)),
            "health_check_enabled": checked,
        })
    };
    let entries: Vec<Value> = opened.iter().zip(checked).map(entry).collect();
    Ok(Answer(json!({ "endpoints": entries })).into_response())
}

/// `DELETE /v2/endpoints/bulk`.
pub(crate) async fn remove(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let ids = read::items(&params, read::deployment)?;
    let error = match app.endpoints.remove(&ids).await {
        Ok(()) => None,
        Err(error) => {
            log::error!("endpoints were not deleted: {error}");
            Some(STORE_FAILED)
        }
    };
    let entry = |id| json!({"deployment_id": id, "success": error.is_none(), "error": error});
    let entries: Vec<Value> = ids.iter().map(entry).collect();
    Ok(Answer(json!({ "endpoints": entries })).into_response())
}

/// `POST /v2/endpoints/bulk/routes`: these routes and no others.
pub(crate) async fn replace(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let changes = read::items(&params, |item| {
        let id = read::deployment(item);
        id.zip(read::routes(item).map(RouteChange::Replace))
    })?;
    Ok(reroute(&app, &changes, |outcome, _| outcome).await)
}

/// `POST /v2/endpoints/bulk/routes/register`.
pub(crate) async fn register(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let changes = read::items(&params, |item| {
        let id = read::deployment(item);
        id.zip(read::routes(item).map(RouteChange::Register))
    })?;
    let entry = |outcome: Outcome, ids: RoutesChanged| Registered {
        deployment_id: outcome.deployment_id,
        success: outcome.success,
        registered_route_ids: ids.changed,
        already_registered_route_ids: ids.unchanged,
        error: outcome.error,
    };
    Ok(reroute(&app, &changes, entry).await)
}

/// `POST /v2/endpoints/bulk/routes/unregister`.
pub(crate) async fn unregister(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let changes = read::items(&params, read::dropped)?;
    let entry = |outcome: Outcome, ids: RoutesChanged| Unregistered {
        deployment_id: outcome.deployment_id,
        success: outcome.success,
        unregistered_route_ids: ids.changed,
        already_absent_route_ids: ids.unchanged,
        error: outcome.error,
    };
    Ok(reroute(&app, &changes, entry).await)
}

#[derive(Serialize)]
struct Outcome {
    deployment_id: EndpointId,
    success: bool,
    error: Option<String>,
}

#[derive(Serialize)]
struct Registered {
    deployment_id: EndpointId,
    success: bool,
    registered_route_ids: Vec<RouteId>,
    already_registered_route_ids: Vec<RouteId>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Unregistered {
    deployment_id: EndpointId,
    success: bool,
    unregistered_route_ids: Vec<RouteId>,
    already_absent_route_ids: Vec<RouteId>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Entries<T> {
    endpoints: Vec<T>,
}

/// Changes routes and answers 200, whatever became of the single endpoints.
async fn reroute<T: Serialize>(
    app: &App,
    changes: &[(EndpointId, RouteChange)],
    entry: impl Fn(Outcome, RoutesChanged) -> T,
) -> Response {
    let outcomes: Vec<Result<RoutesChanged, String>> = match app.endpoints.reroute(changes).await {
        Ok(outcomes) => {
            let told = |refused: crate::store::RoutesRefused| refused.to_string();
            outcomes.into_iter().map(|o| o.map_err(told)).collect()
        }
        Err(error) => {
            log::error!("routes were not changed: {error}");
            changes
                .iter()
                .map(|_| Err(STORE_FAILED.to_owned()))
                .collect()
        }
    };
    let written =
        |((id, _), outcome): (&(EndpointId, RouteChange), Result<RoutesChanged, String>)| {
            let success = outcome.is_ok();
            let (ids, error) = match outcome {
                Ok(ids) => (ids, None),
                Err(error) => (RoutesChanged::default(), Some(error)),
            };
            let outcome = Outcome {
                deployment_id: *id,
                success,
                error,
            };
            entry(outcome, ids)
        };
    let endpoints = changes.iter().zip(outcomes).map(written).collect();
    Answer(Entries { endpoints }).into_response()
}
