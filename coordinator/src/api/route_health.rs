//! How routes are: what workers report, and `/health/summary`, `/health/endpoints`,
//! `/health/circuits/{circuit_id}`. The shapes are ours: the incumbent's calls always fail
//! (contract/rest-coordinator.md §6).

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use http::HeaderMap;
use patchbay_common::circuit::Circuit;
use patchbay_common::health_check::HealthCheck;
use patchbay_common::id::{CircuitId, EndpointId, RouteId, SessionId};
use patchbay_common::route_report::{DownRoute, RouteReport};
use patchbay_common::timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::App;
use super::auth::Authorized;
use super::error::ApiError;
use super::json::Answer;
use super::params::{self, Params};
use super::workers::{id, node};
use crate::registry::{Condition, Picture, RouteCondition, Tally, overall};

/// Endpoints on a page that does not say how many it wants.
const PAGE: usize = 100;
/// Most endpoints on a page.
const LONGEST_PAGE: usize = 1_000;
/// Longest name of a node, which the column holds.
const LONGEST_NODE: usize = 255;

/// `POST /api/worker/{id}/route-health`: what a node says of its routes, in place of what it said
/// before.
pub(crate) async fn report(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    let worker = id(&segment, "worker")?;
    let node = named_node(&headers)?;
    let report: RouteReport = params.read()?;
    if !app
        .store
        .keep_report(worker, node, &report.bounded())
        .await?
    {
        return Err(ApiError::NoSuch("worker"));
    }
    Ok(Answer(json!({"success": true})).into_response())
}

/// The node that speaks; one without a name is the only one.
pub(crate) fn named_node(headers: &HeaderMap) -> Result<&str, ApiError> {
    let node = node(headers).unwrap_or("-");
    if node.chars().count() > LONGEST_NODE {
        let problem = format!("X-Patchbay-Node is longer than {LONGEST_NODE} characters");
        return Err(ApiError::BadRequest(problem));
    }
    Ok(node)
}

#[derive(Serialize)]
struct Summary {
    status: Condition,
    circuits: Tally,
    routes: Routes,
    workers: Workers,
    #[serde(with = "timestamp")]
    timestamp: DateTime<Utc>,
}

#[derive(Serialize)]
struct Routes {
    unhealthy: u64,
}

#[derive(Serialize)]
struct Workers {
    alive: usize,
    lost: usize,
    reporting: usize,
}

/// `GET /health/summary`: circuits counted by how they are.
pub(crate) async fn summary(_: Authorized, State(app): State<App>) -> Result<Response, ApiError> {
    let picture = Picture::take(app.store.as_ref()).await?;
    let figures = app.store.figures().await?;
    let (circuits, unhealthy) = picture.tally(&figures);
    let (alive, lost, reporting) = picture.workers();
    let status = match circuits {
        Tally { total, unknown, .. } if total == unknown => Condition::Unknown,
        Tally {
            total, unhealthy, ..
        } if total == unhealthy => Condition::Unhealthy,
        Tally {
            degraded: 0,
            unhealthy: 0,
            ..
        } => Condition::Healthy,
        _ => Condition::Degraded,
    };
    Ok(Answer(Summary {
        status,
        circuits,
        routes: Routes { unhealthy },
        workers: Workers {
            alive,
            lost,
            reporting,
        },
        timestamp: timestamp::now(),
    })
    .into_response())
}

/// `GET /health/endpoints`: the circuits of endpoints, `limit` of them after `cursor`.
pub(crate) async fn endpoints(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let (after, limit) = {
        let fields = params.fields();
        let after = fields.optional("cursor", params::uuid);
        let limit = fields.optional("limit", |value| params::limit(value, LONGEST_PAGE));
        fields.verdict()?;
        (after, limit.unwrap_or(PAGE))
    };
    let picture = Picture::take(app.store.as_ref()).await?;
    let mut circuits = app
        .store
        .endpoint_page(after, limit.saturating_add(1))
        .await?;
    let more = circuits.len() > limit;
    circuits.truncate(limit);
    let next = circuits.last().filter(|_| more).map(|circuit| circuit.id);
    let shown: Vec<CircuitView<'_>> = circuits.iter().map(|c| view(&picture, c)).collect();
    Ok(Answer(json!({"endpoints": shown, "next": next})).into_response())
}

/// `GET /health/circuits/{circuit_id}`.
pub(crate) async fn circuit(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
) -> Result<Response, ApiError> {
    // Here, and only here, the incumbent answers 400 to what is no UUID.
    let id: CircuitId = segment
        .parse()
        .map_err(|_| ApiError::BadRequest("the circuit's id is no UUID".into()))?;
    let circuit = app.store.circuit(id).await?;
    let circuit = circuit.ok_or(ApiError::NoSuch("circuit"))?;
    let picture = Picture::take(app.store.as_ref()).await?;
    Ok(Answer(view(&picture, &circuit)).into_response())
}

/// How a circuit's routes are.
pub(crate) async fn of(app: &App, circuit: &Circuit) -> Result<Value, ApiError> {
    let picture = Picture::take(app.store.as_ref()).await?;
    let unwritable = |error: serde_json::Error| ApiError::Internal(error.to_string());
    serde_json::to_value(view(&picture, circuit)).map_err(unwritable)
}

#[derive(Serialize)]
struct CircuitView<'a> {
    circuit_id: CircuitId,
    endpoint_id: Option<EndpointId>,
    app: Option<&'a str>,
    worker: Option<&'a str>,
    status: Condition,
    health_check: Option<&'a HealthCheck>,
    routes: Vec<RouteView<'a>>,
}

#[derive(Serialize)]
struct RouteView<'a> {
    route_id: Option<RouteId>,
    session_id: SessionId,
    kernel_host: &'a str,
    kernel_port: u16,
    status: Condition,
    since: Option<String>,
    last_error: Option<&'a str>,
    nodes: Vec<NodeView<'a>>,
}

#[derive(Serialize)]
struct NodeView<'a> {
    node: &'a str,
    status: Condition,
    since: Option<String>,
    last_error: Option<&'a str>,
    #[serde(with = "timestamp")]
    reported_at: DateTime<Utc>,
}

fn view<'a>(picture: &'a Picture, circuit: &'a Circuit) -> CircuitView<'a> {
    let routes = picture.routes(circuit);
    let worker = picture.worker(circuit.worker);
    CircuitView {
        circuit_id: circuit.id,
        endpoint_id: circuit.endpoint_id,
        app: circuit.app.as_deref(),
        worker: worker.map(|worker| worker.authority.as_str()),
        status: overall(&routes),
        health_check: circuit.health_check.as_ref(),
        routes: routes.into_iter().map(route).collect(),
    }
}

fn route(found: RouteCondition<'_>) -> RouteView<'_> {
    let since = |down: &DownRoute| timestamp::format(&down.since);
    let complaints = || found.nodes.iter().filter_map(|node| node.down);
    let first = complaints().min_by_key(|down| down.since);
    RouteView {
        route_id: found.route.route_id,
        session_id: found.route.session_id,
        kernel_host: found.route.host(),
        kernel_port: found.route.kernel_port,
        status: found.condition,
        since: first.map(since),
        last_error: first.and_then(|down| down.error.as_deref()),
        nodes: found
            .nodes
            .iter()
            .map(|node| NodeView {
                node: &node.report.node,
                status: match node.down {
                    Some(_) => Condition::Unhealthy,
                    None => Condition::Healthy,
                },
                since: node.down.map(since),
                last_error: node.down.and_then(|down| down.error.as_deref()),
                reported_at: node.report.reported_at,
            })
            .collect(),
    }
}
