//! `/api/circuit/{id}/revocations`: permits and tokens of a circuit that count no more.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use patchbay_common::circuit::{AppMode, Circuit};
use patchbay_common::grant::{self, Grant, Revocation, Revocations};
use patchbay_common::id::CircuitId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::auth::Authorized;
use super::endpoints::moment;
use super::error::{ApiError, FieldError};
use super::json::Answer;
use super::params::{self, Misfit, Params};
use super::workers::id;

/// What a token of either kind says.
#[derive(Clone, Deserialize)]
struct Claims {
    /// Of an endpoint's token: its circuit.
    #[serde(default)]
    id: Option<String>,
    /// Of a setup token: its circuit.
    #[serde(default)]
    circuit: Option<String>,
    #[serde(default)]
    jti: Option<String>,
    #[serde(default)]
    exp: Option<f64>,
}

/// `GET /api/circuit/{id}/revocations`.
pub(crate) async fn list(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
) -> Result<Response, ApiError> {
    let circuit = circuit(&app, &segment).await?;
    Ok(Answer(shown(&circuit.revocations)).into_response())
}

/// `POST /api/circuit/{id}/revocations`: one of `jti`, `token` and `all`.
pub(crate) async fn revoke(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let circuit = circuit(&app, &segment).await?;
    let revocation = {
        let fields = params.fields();
        let name = fields.optional("jti", name);
        let token = fields.optional("token", |value| of_token(&app, &circuit, value));
        let all = fields.optional("all", params::flag).unwrap_or(false);
        let ends = fields.optional("expires", moment);
        fields.verdict()?;
        let ends = ends.and_then(|at| u64::try_from(at).ok());
        // What a permit comes of may make another one for as long as the circuit is there.
        let ends = ends.filter(|_| circuit.app_mode == AppMode::Inference);
        let all = all.then(|| Revocation::UpTo(grant::now_millis()));
        let name = name.map(|name| Revocation::Name(name, ends));
        let mut given = [name, token, all].into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(one), None) => one,
            _ => {
                let fix = "give one of jti, token and all";
                let mistake = FieldError::new("value_error", vec!["jti".into()], fix);
                return Err(ApiError::Invalid(vec![mistake]));
            }
        }
    };
    let circuit = app.closer.revoke(circuit.id, &revocation).await?;
    Ok(Answer(shown(&circuit.revocations)).into_response())
}

async fn circuit(app: &App, segment: &str) -> Result<Circuit, ApiError> {
    let id: CircuitId = id(segment, "circuit")?;
    let circuit = app.store.circuit(id).await?;
    circuit.ok_or(ApiError::NoSuch("circuit"))
}

fn shown(list: &Revocations) -> Value {
    json!({"up_to": list.up_to, "names": list.names})
}

fn name(value: &Value) -> Result<String, Misfit> {
    let text = value.as_str().filter(|text| grant::is_name(text));
    text.map(str::to_owned).ok_or_else(|| {
        let fix = "Input should be the `jti` of a permit or token: 1 to 128 visible characters";
        ("string_pattern_mismatch", fix.into())
    })
}

/// The grant of a permit cookie's value, or of a token this coordinator's key has signed.
fn of_token(app: &App, circuit: &Circuit, value: &Value) -> Result<Revocation, Misfit> {
    let misfit = |problem: &str| ("value_error", problem.to_owned());
    let token = value.as_str().unwrap_or_default().trim();
    if let Some(rest) = token.strip_prefix("v1.") {
        let jti = rest.split('.').next().filter(|jti| grant::is_name(jti));
        let jti = jti.ok_or_else(|| misfit("not a permit"))?;
        return Ok(Revocation::Name(jti.to_owned(), None));
    }
    let claims: Claims = app
        .jwt
        .verify(token)
        .map_err(|error| misfit(&format!("neither a permit nor a token of ours: {error}")))?;
    let of = claims.circuit.or(claims.id);
    if of.as_deref() != Some(circuit.id.to_string().as_str()) {
        return Err(misfit("the token is for another circuit"));
    }
    let ends = claims.exp.map(|at| at as u64);
    let ends = ends.filter(|_| circuit.app_mode == AppMode::Inference);
    let grant = Grant::of_token(token, claims.jti, None);
    Ok(Revocation::Name(grant.name.into_owned(), ends))
}
