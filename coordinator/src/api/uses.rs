//! `POST /api/worker/{id}/uses`: what workers without Redis tell of how circuits are used.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use patchbay_common::use_report::{MOST_CIRCUITS, UseReport};
use serde_json::json;

use super::App;
use super::auth::Authorized;
use super::error::ApiError;
use super::json::Answer;
use super::params::Params;
use super::workers::{id, node};

/// Takes in what a node tells.
pub(crate) async fn note(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    let worker = id(&segment, "worker")?;
    let report: UseReport = params.read()?;
    if report.circuits.len() > MOST_CIRCUITS {
        return Err(ApiError::BadRequest(format!(
            "circuits: at most {MOST_CIRCUITS} go into one report"
        )));
    }
    if !app.marks.note(worker, node(&headers), &report).await? {
        return Err(ApiError::NoSuch("worker"));
    }
    Ok(Answer(json!({"success": true})).into_response())
}
