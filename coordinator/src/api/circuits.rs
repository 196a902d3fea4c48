//! `/api/circuit/{id}` (contract/rest-coordinator.md §7, circuit routes).

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::App;
use super::auth::Authorized;
use super::error::ApiError;
use super::json::Answer;
use super::workers::id;

/// `GET /api/circuit/{id}`.
pub(crate) async fn read(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
) -> Result<Response, ApiError> {
    let circuit = app.store.circuit(id(&segment, "circuit")?).await?;
    Ok(Answer(circuit.ok_or(ApiError::NoSuch("circuit"))?).into_response())
}

/// `DELETE /api/circuit/{id}`.
pub(crate) async fn close(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
) -> Result<Response, ApiError> {
    app.closer.close(id(&segment, "circuit")?).await?;
    Ok(Answer(json!({"success": true})).into_response())
}
