//! The way to an app for clients that can reach only the coordinator: `POST /api/v1/route` says
//! which worker hosts a session's app, and with `[relay] enabled = true` everything under
//! `/apps/{circuit or session}/{app}/` is carried to that worker.
//!
//! `forward` carries requests, streams and WebSockets; `rewrite` makes the app's redirects and
//! cookies hold at the other address. This room refuses to judge credentials: they pass through,
//! and the worker judges them as for every client. The API's own secret never passes.
//!
//! It is served by hyper beside the API and not by Pingora's `ProxyHttp`: API calls and relayed
//! requests share one address and its kept connections, and Pingora 0.9.1 cuts idle upgrades and
//! loses their first frames, which hyper's upgrades do not.

mod forward;
mod rewrite;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use patchbay_common::circuit::{Circuit, FrontendMode, Protocol};
use patchbay_common::id::{CircuitId, SessionId};
use patchbay_common::worker::Worker;
use serde_json::json;
use url::Url;

use super::auth::Authorized;
use super::error::ApiError;
use super::json::Answer;
use super::params::{self, Params};
use super::{App, view};

pub use forward::Client;
pub(crate) use forward::Relayed;

/// The handshake that gives a browser its permit.
const SETUP: &str = "/apps/_/setup";

/// The paths that are carried on.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route(SETUP, any(setup))
        .route("/apps/{circuit}/{app}", any(bare))
        .route("/apps/{circuit}/{app}/", any(root))
        .route("/apps/{circuit}/{app}/{*rest}", any(below))
}

/// `POST /api/v1/route`: the worker that hosts a session's app, and the app's addresses.
pub(crate) async fn route(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let (session, name) = {
        let fields = params.fields();
        let session: Option<SessionId> = fields.required("session_id", params::uuid);
        let name = fields.required("app", params::filled);
        fields.verdict()?;
        session.zip(name).ok_or_else(|| fields.incomplete())?
    };
    let circuit = of_session(&app, session, &name).await?;
    let worker = worker(&app, &circuit).await?;
    let relayed = app.relay.as_ref().map(|_| {
        format!(
            "{}{}/",
            app.advertise_url,
            prefix(&circuit.id.to_string(), &name)
        )
    });
    Ok(Answer(json!({
        "circuit": circuit.id,
        "worker": {
            "id": worker.id,
            "authority": worker.authority,
            "status": worker.status,
            "endpoint": view::endpoint(&worker),
        },
        "url": format!("{}/", view::circuit_url(&circuit, &worker)),
        "relay_url": relayed,
    }))
    .into_response())
}

/// Path of an app on this server, without the slash at its end.
fn prefix(circuit: &str, name: &str) -> String {
    let mut url = Url::parse("http://relay/apps").ok();
    if let Some(mut parts) = url.as_mut().and_then(|url| url.path_segments_mut().ok()) {
        parts.push(circuit).push(name);
    }
    url.map_or_else(String::new, |url| url.path().to_owned())
}

async fn of_session(app: &App, session: SessionId, name: &str) -> Result<Circuit, ApiError> {
    let circuits = app.store.session_circuits(session).await?;
    let named = |circuit: &Circuit| circuit.app.as_deref() == Some(name);
    let found = circuits.into_iter().rev().find(named);
    found.ok_or(ApiError::NoSuch("circuit"))
}

async fn worker(app: &App, circuit: &Circuit) -> Result<Worker, ApiError> {
    let worker = app.store.worker(circuit.worker).await?;
    worker.ok_or(ApiError::NoSuch("worker"))
}

/// The circuit that a path names: by its own id, or by its session's.
async fn named(app: &App, id: &str, name: &str) -> Result<Circuit, ApiError> {
    let no_such = || ApiError::NoSuch("circuit");
    let key: CircuitId = id.parse().map_err(|_| no_such())?;
    if let Some(circuit) = app.store.circuit(key).await? {
        let fits = circuit.app.as_deref().is_none_or(|app| app == name);
        return fits.then_some(circuit).ok_or_else(no_such);
    }
    of_session(app, id.parse().map_err(|_| no_such())?, name).await
}

/// Where a relayed request goes.
struct Target {
    /// The worker's listener, path and query as the app is to see them.
    url: Url,
    /// The `Host` it is asked by, where that is not the listener's own.
    host: Option<String>,
    /// What the app calls its own address.
    origin: Url,
    /// What its clients here call it, without a slash at the end.
    prefix: String,
}

fn target(circuit: &Circuit, worker: &Worker, prefix: String) -> Result<Target, ApiError> {
    if circuit.protocol == Protocol::Tcp {
        return Err(ApiError::BadRequest(
            "the app is a plain byte stream, which is not relayed".into(),
        ));
    }
    let broken = |error| ApiError::Internal(format!("a circuit has no URL: {error}"));
    let text = view::circuit_url(circuit, worker);
    // Over TLS or not, what is spoken to the worker is HTTP/1.1.
    let text = text.replacen("grpc://", "http://", 1);
    let origin = Url::parse(&text).map_err(broken)?;
    let mut url = origin.clone();
    let mut host = None;
    if circuit.frontend_mode == FrontendMode::Wildcard && url.scheme() == "http" {
        // The subdomain need not resolve here; the worker's own name does.
        host = text.strip_prefix("http://").map(str::to_owned);
        url.set_host(Some(&worker.hostname)).map_err(broken)?;
    }
    Ok(Target {
        url,
        host,
        origin,
        prefix,
    })
}

async fn bare(
    state: State<App>,
    Path((circuit, name)): Path<(String, String)>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    carry(state, &circuit, &name, request).await
}

async fn root(
    state: State<App>,
    Path((circuit, name)): Path<(String, String)>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    carry(state, &circuit, &name, request).await
}

async fn below(
    state: State<App>,
    Path((circuit, name, _)): Path<(String, String, String)>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    carry(state, &circuit, &name, request).await
}

async fn carry(
    State(app): State<App>,
    id: &str,
    name: &str,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let client = app.relay.as_ref().ok_or_else(|| no_relay(&request))?;
    let circuit = named(&app, id, name).await?;
    let worker = worker(&app, &circuit).await?;
    let mut target = target(&circuit, &worker, prefix(id, name))?;
    // The path as it was written, without the three segments that name the app.
    let path = request
        .uri()
        .path()
        .splitn(5, '/')
        .nth(4)
        .unwrap_or_default();
    target.url.set_path(&format!("/{path}"));
    target.url.set_query(request.uri().query());
    client.forward(target, request, app.drain.enter()).await
}

/// The worker's `/setup`, by the circuit that the token names.
async fn setup(State(app): State<App>, request: Request<Body>) -> Result<Response, ApiError> {
    let client = app.relay.as_ref().ok_or_else(|| no_relay(&request))?;
    let query = request.uri().query().unwrap_or_default();
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let token = pairs.find(|(name, _)| name == "token");
    let token = token
        .map(|(_, token)| token.into_owned())
        .unwrap_or_default();
    let claims: patchbay_common::token::SetupClaims = app
        .jwt
        .verify(&token)
        .map_err(|_| ApiError::Unauthorized("Unauthorized access".into()))?;
    let circuit = app.store.circuit(claims.circuit).await?;
    let circuit = circuit.ok_or(ApiError::NoSuch("circuit"))?;
    let worker = worker(&app, &circuit).await?;
    let name = circuit.app.as_deref().unwrap_or("app");
    let prefix = prefix(&circuit.id.to_string(), name);
    let mut target = target(&circuit, &worker, prefix)?;
    let endpoint = format!("{}/setup?{query}", view::endpoint(&worker));
    target.url = Url::parse(&endpoint)
        .map_err(|error| ApiError::Internal(format!("a worker has no URL: {error}")))?;
    target.host = None;
    client.forward(target, request, app.drain.enter()).await
}

fn no_relay(request: &Request<Body>) -> ApiError {
    ApiError::NoRoute(request.uri().path().to_owned())
}
