//! `/v2/endpoints/{id}*`: what older Managers call, one endpoint at a time, and its credential.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, NaiveDateTime};
use patchbay_common::circuit::Circuit;
use patchbay_common::grant;
use patchbay_common::id::{EndpointId, UserId};
use serde_json::{Value, json};

use super::read;
use crate::api::auth::Authorized;
use crate::api::error::ApiError;
use crate::api::json::Answer;
use crate::api::params::{self, Misfit, Params};
use crate::api::workers::id;
use crate::api::{App, view};

/// Epoch numbers above it are milliseconds.
const SECONDS_END: f64 = 2e10;

/// `POST /v2/endpoints/{id}`.
pub(crate) async fn open(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let opening = {
        let fields = params.fields();
        let opening = read::opening(&fields, id(&segment, "circuit")?);
        fields.verdict()?;
        opening.ok_or_else(|| fields.incomplete())?
    };
    let checked = opening.health_check.is_some();
    let opened = app.endpoints.open(vec![opening]).await?;
    let opened = opened
        .first()
        .ok_or_else(|| ApiError::Internal("an endpoint was opened without a circuit".into()))?;
    let url = view::circuit_url(&opened.circuit, &opened.worker);
    Ok(Answer(json!({
        "success": true,
        "endpoint": format!("{url}/"),
        "health_check_enabled": checked,
    }))
    .into_response())
}

/// `DELETE /v2/endpoints/{id}`: one that is not there is gone already.
pub(crate) async fn remove(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
) -> Result<Response, ApiError> {
    app.endpoints.remove(&[id(&segment, "circuit")?]).await?;
    Ok(Answer(json!({"success": true})).into_response())
}

/// `PUT /v2/endpoints/{id}/health-check`.
pub(crate) async fn set_health_check(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let endpoint: EndpointId = id(&segment, "circuit")?;
    let check = {
        let fields = params.fields();
        fields.required("health_check", |_| Ok(()));
        let check = read::health_check(&fields);
        fields.verdict()?;
        check
    };
    if !app.store.set_health_check(endpoint, check.as_ref()).await? {
        return Err(ApiError::NoSuch("circuit"));
    }
    Ok(Answer(json!({"success": true})).into_response())
}

/// `POST /v2/endpoints/{id}/token`: a bearer token for the endpoint's users.
pub(crate) async fn token(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let endpoint: EndpointId = id(&segment, "circuit")?;
    let (user, expiry) = {
        let fields = params.fields();
        let user: Option<UserId> = fields.required("user_uuid", params::uuid);
        let expiry = fields.required("exp", moment);
        fields.verdict()?;
        user.zip(expiry).ok_or_else(|| fields.incomplete())?
    };
    let (circuit, worker) = app.endpoints.circuit(endpoint).await?;
    let url = view::circuit_url(&circuit, &worker);
    let fault = |what: &str| ApiError::Internal(format!("an endpoint token {what}"));
    let claims = claims(&circuit, &url, user, expiry);
    let mut claims = claims.ok_or_else(|| fault("has no claims"))?;
    // Ours: the name it can be revoked by. Readers of every release ignore it.
    claims["jti"] = grant::new_name().to_string().into();
    let token = app.jwt.sign(&claims);
    let token = token.map_err(|error| fault(&format!("cannot be signed: {error}")))?;
    Ok(Answer(json!({"token": token})).into_response())
}

/// The circuit's own fields without its routes, where it is, who asked and for how long.
fn claims(circuit: &Circuit, url: &str, user: UserId, expiry: i64) -> Option<Value> {
    let mut claims = serde_json::to_value(circuit).ok()?;
    let map = claims.as_object_mut()?;
    map.remove("route_info");
    map.remove("origin_request_id");
    map.remove("health_check");
    map.remove("revocations");
    for (key, at) in [
        ("created_at", circuit.created_at),
        ("updated_at", circuit.updated_at),
    ] {
        let seconds = at.timestamp_micros() as f64 / 1e6;
        map.insert(key.into(), seconds.into());
    }
    map.insert("app_url".into(), url.into());
    map.insert("user".into(), user.to_string().into());
    map.insert("exp".into(), expiry.into());
    Some(claims)
}

/// A point in time as a text (UTC where it names no zone) or as a number since 1970, in seconds.
pub(crate) fn moment(value: &Value) -> Result<i64, Misfit> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let number = number.filter(|number: &f64| number.is_finite());
    let seconds = number.map(|number| {
        let scale = if number.abs() > SECONDS_END { 1e3 } else { 1.0 };
        (number / scale) as i64
    });
    let written = || {
        let text = value.as_str()?.trim();
        let zoned = DateTime::parse_from_rfc3339(text).map(|at| at.timestamp());
        let bare = || text.replacen(' ', "T", 1).parse::<NaiveDateTime>();
        zoned
            .or_else(|_| bare().map(|at| at.and_utc().timestamp()))
            .ok()
    };
    seconds.or_else(written).ok_or_else(|| {
        (
            "datetime_parsing",
            "Input should be a time (RFC 3339) or seconds since 1970".into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_those_of_the_vector() {
        let vectors = crate::test_vectors::vectors();
        let expected = &vectors["endpoint_jwt"]["claims_in_order"];
        let mut shown = expected.clone();
        for key in ["created_at", "updated_at"] {
            let micros = (expected[key].as_f64().unwrap() * 1e6).round() as i64;
            let at = DateTime::from_timestamp_micros(micros).unwrap();
            shown[key] = patchbay_common::timestamp::format(&at).into();
        }
        let circuit: Circuit = serde_json::from_value(shown).unwrap();
        let user = expected["user"].as_str().unwrap().parse().unwrap();
        let url = expected["app_url"].as_str().unwrap();
        let exp = expected["exp"].as_i64().unwrap();
        assert_eq!(&claims(&circuit, url, user, exp).unwrap(), expected);
    }

    #[test]
    fn a_moment_is_a_text_or_a_number() {
        for text in [
            "2030-01-01T00:00:00Z",
            "2030-01-01T09:00:00+09:00",
            "2030-01-01 00:00:00",
        ] {
            assert_eq!(moment(&json!(text)), Ok(1_893_456_000), "{text}");
        }
        for value in [
            json!(1_893_456_000),
            json!("1893456000"),
            json!(1_893_456_000_000_u64),
        ] {
            assert_eq!(moment(&value), Ok(1_893_456_000), "{value}");
        }
        assert!(moment(&json!("soon")).is_err() && moment(&json!(null)).is_err());
    }
}
