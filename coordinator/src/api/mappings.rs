//! `/routes`: which session's service is reached where. The circuits of `/api/circuit`, by the names
//! of the coordinator's own document; nothing is kept for them besides.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use http::StatusCode;
use patchbay_common::circuit::{AppMode, Circuit, FrontendMode, Protocol};
use patchbay_common::id::{CircuitId, EndpointId, SessionId, UserId, WorkerId};
use patchbay_common::timestamp;
use patchbay_common::worker::{AppFilter, Worker, WorkerStatus};
use serde::Serialize;
use serde_json::{Value, json};

use super::auth::Authorized;
use super::error::ApiError;
use super::json::Answer;
use super::params::{self, Fields, Misfit, Params};
use super::workers::id;
use super::{App, proxy, view};
use crate::circuits::{Backing, OpenError, Opening, Source};
use crate::store::{Actor, Cause, CircuitFilter, Reason};

/// Routes on a page that does not say how many it wants.
const PAGE: usize = 100;
/// Most routes on a page.
const LONGEST_PAGE: usize = 1_000;

#[derive(Serialize)]
struct Host {
    id: WorkerId,
    authority: String,
    available: bool,
}

/// A circuit as `/routes` shows it.
#[derive(Serialize)]
struct Mapping {
    id: CircuitId,
    session_id: Option<SessionId>,
    service: Option<String>,
    protocol: Protocol,
    kernel_host: Option<String>,
    kernel_port: Option<u16>,
    worker: Host,
    frontend_mode: FrontendMode,
    port: Option<u16>,
    subdomain: Option<String>,
    url: String,
    open_to_public: bool,
    user_id: Option<UserId>,
    endpoint_id: Option<EndpointId>,
    #[serde(with = "timestamp")]
    created_at: DateTime<Utc>,
    #[serde(with = "timestamp")]
    updated_at: DateTime<Utc>,
    /// Where a browser gets its permit; only in the answer to an opening.
    #[serde(skip_serializing_if = "Option::is_none")]
    setup_url: Option<String>,
}

fn mapping(circuit: &Circuit, worker: &Worker) -> Mapping {
    let first = circuit.route_info.first();
    Mapping {
        id: circuit.id,
        session_id: circuit.session_ids.first().copied(),
        service: circuit.app.clone(),
        protocol: first.map_or(circuit.protocol, |route| route.protocol),
        kernel_host: first.map(|route| route.host().to_owned()),
        kernel_port: first.map(|route| route.kernel_port),
        worker: Host {
            id: worker.id,
            authority: worker.authority.clone(),
            available: worker.status == WorkerStatus::Alive,
        },
        frontend_mode: circuit.frontend_mode,
        port: circuit.port,
        subdomain: circuit.subdomain.clone(),
        url: view::circuit_url(circuit, worker),
        open_to_public: circuit.open_to_public,
        user_id: circuit.user_id,
        endpoint_id: circuit.endpoint_id,
        created_at: circuit.created_at,
        updated_at: circuit.updated_at,
        setup_url: None,
    }
}

async fn shown(app: &App, circuit: &Circuit) -> Result<Mapping, ApiError> {
    let worker = app.store.worker(circuit.worker).await?;
    Ok(mapping(circuit, &worker.ok_or(ApiError::NoSuch("worker"))?))
}

/// `POST /routes`: 201 with the new route, 200 with the one that is there already and leads to the
/// same address, 409 with the holder where something else is in the way.
pub(crate) async fn create(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let (opening, worker) = asked(&params)?;
    let Source::Given(mut backing) = opening.source.clone() else {
        return Err(ApiError::Internal("a route without an address".into()));
    };
    if let Some(name) = worker {
        backing.worker = Some(named_worker(&app, &name).await?.id);
    }
    refuse_other(&app, &opening, &backing).await?;
    let slot = (opening.port, opening.subdomain.clone(), backing.worker);
    let opening = Opening {
        source: Source::Given(backing.clone()),
        ..opening
    };
    let opened = match app.opener.open(opening.clone()).await {
        Ok(opened) => opened,
        Err(error @ (OpenError::PortTaken { .. } | OpenError::SubdomainTaken { .. })) => {
            return Err(slot_taken(&app, slot, error).await);
        }
        Err(error) => return Err(error.into()),
    };
    // Somebody may have opened it since it was looked for.
    if !leads_to(&opened.circuit, &backing, &opening) {
        return Err(taken_by(
            &app,
            "the session has this service elsewhere",
            &opened.circuit,
        )
        .await);
    }
    let mut shown = mapping(&opened.circuit, &opened.worker);
    shown.setup_url = Some(proxy::setup_url(&app, None, "", &opened)?);
    let status = if opened.reused {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((status, Answer(shown)).into_response())
}

/// Refuses what would be a second route of a session's service.
async fn refuse_other(app: &App, opening: &Opening, backing: &Backing) -> Result<(), ApiError> {
    let filter = CircuitFilter {
        session: Some(opening.session),
        app: Some(opening.app.clone()),
        ..CircuitFilter::default()
    };
    for circuit in app.store.circuits(&filter, LONGEST_PAGE).await? {
        if circuit.app_mode != AppMode::Interactive || leads_to(&circuit, backing, opening) {
            continue;
        }
        // One that its worker took with it is in nobody's way.
        let worker = app.store.worker(circuit.worker).await?;
        if worker.is_some_and(|worker| worker.status == WorkerStatus::Alive) {
            let msg = "the session has this service elsewhere";
            return Err(taken_by(app, msg, &circuit).await);
        }
    }
    Ok(())
}

fn leads_to(circuit: &Circuit, backing: &Backing, opening: &Opening) -> bool {
    let [route] = circuit.route_info.as_slice() else {
        return false;
    };
    route.host() == backing.kernel_host
        && route.kernel_port == backing.kernel_port
        && circuit.open_to_public == opening.open_to_public
        && circuit.protocol == opening.protocol.carried()
        && circuit.allowed_client_ips == opening.allowed_client_ips
        && opening.port.is_none_or(|port| circuit.port == Some(port))
        && backing.worker.is_none_or(|worker| circuit.worker == worker)
}

/// A conflict that names the holder.
async fn taken_by(app: &App, msg: &'static str, holder: &Circuit) -> ApiError {
    match shown(app, holder).await {
        Ok(holder) => ApiError::Conflict {
            msg,
            data: json!({ "holder": holder }),
        },
        Err(error) => error,
    }
}

/// The conflict over a slot; without a holder that can be found, as the opener says it.
async fn slot_taken(
    app: &App,
    (port, subdomain, worker): (Option<u16>, Option<String>, Option<WorkerId>),
    error: OpenError,
) -> ApiError {
    let named = match &error {
        OpenError::SubdomainTaken { subdomain } => Some(subdomain.clone()),
        _ => subdomain,
    };
    let filter = CircuitFilter {
        subdomain: named.filter(|_| port.is_none()),
        port,
        worker: worker.filter(|_| port.is_some()),
        ..CircuitFilter::default()
    };
    match app.store.circuits(&filter, 1).await {
        Ok(found) => match found.first() {
            Some(holder) => taken_by(app, "the slot is another route's", holder).await,
            None => error.into(),
        },
        Err(error) => error.into(),
    }
}

async fn named_worker(app: &App, name: &str) -> Result<Worker, ApiError> {
    let worker = match name.parse() {
        Ok(id) => app.store.worker(id).await?,
        Err(_) => app.store.worker_by_authority(name).await?,
    };
    worker.ok_or(ApiError::NoSuch("worker"))
}

fn asked(params: &Params) -> Result<(Opening, Option<String>), ApiError> {
    let fields = params.fields();
    let session = fields.required("session_id", params::uuid);
    let service = fields.required("service", params::filled);
    let address = address(&fields);
    let user = fields.optional("user_id", params::uuid);
    let opening = (|| {
        let (kernel_host, kernel_port) = address?;
        let session = session?;
        Some(Opening {
            source: Source::Given(Backing {
                kernel_host,
                kernel_port,
                user,
                properties: properties(&fields, session, user),
                worker: None,
            }),
            session,
            by: Actor::Manager,
            app: service?,
            protocol: fields
                .optional("protocol", params::protocol)
                .unwrap_or_default(),
            envs: fields.optional("envs", params::object).unwrap_or_default(),
            arguments: fields.optional("args", params::text),
            open_to_public: fields
                .optional("open_to_public", params::flag)
                .unwrap_or(false),
            allowed_client_ips: fields
                .optional("allowed_client_ips", proxy::networks)
                .flatten(),
            no_reuse: false,
            port: fields.optional("port", params::port),
            subdomain: fields.optional("subdomain", params::filled),
        })
    })();
    let worker = fields.optional("worker", params::filled);
    fields.verdict()?;
    let opening = opening.ok_or_else(|| fields.incomplete())?;
    Ok((opening, worker))
}

fn address(fields: &Fields<'_>) -> Option<(String, u16)> {
    let host = fields.required("kernel_host", params::filled);
    let port = fields.required("kernel_port", params::port);
    host.zip(port)
}

/// What filters are compared with, as far as it is told (contract/rest-coordinator.md §8.1).
fn properties(fields: &Fields<'_>, session: SessionId, user: Option<UserId>) -> Vec<AppFilter> {
    let told = |name| fields.optional(name, params::filled);
    let pairs = [
        ("session.id", Some(session.to_string())),
        ("session.user_uuid", user.map(|id| id.to_string())),
        ("session.project_id", told("project_id")),
        ("session.access_key", told("access_key")),
        ("session.domain_name", told("domain_name")),
    ];
    let filter = |(key, value): (&str, Option<String>)| {
        Some(AppFilter {
            key: key.to_owned(),
            value: value?,
        })
    };
    pairs.into_iter().filter_map(filter).collect()
}

/// `GET /routes`, filtered by `session_id`, `service` and `worker` (key or name); `limit` routes
/// after `cursor`.
pub(crate) async fn list(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let (mut filter, worker, limit) = {
        let fields = params.fields();
        let filter = CircuitFilter {
            session: fields.optional("session_id", params::uuid),
            app: fields.optional("service", params::filled),
            after: fields.optional("cursor", params::uuid),
            ..CircuitFilter::default()
        };
        let worker = fields.optional("worker", params::filled);
        let limit = fields.optional("limit", limit).unwrap_or(PAGE);
        fields.verdict()?;
        (filter, worker, limit)
    };
    if let Some(name) = worker {
        filter.worker = Some(named_worker(&app, &name).await?.id);
    }
    let mut found = app.store.circuits(&filter, limit.saturating_add(1)).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let workers = app.store.workers().await?;
    let of = |circuit: &Circuit| {
        let worker = workers.iter().find(|worker| worker.id == circuit.worker)?;
        Some(mapping(circuit, worker))
    };
    let routes: Vec<Mapping> = found.iter().filter_map(of).collect();
    let next = found.last().filter(|_| more).map(|circuit| circuit.id);
    Ok(Answer(json!({"routes": routes, "next": next})).into_response())
}

fn limit(value: &Value) -> Result<usize, Misfit> {
    params::limit(value, LONGEST_PAGE)
}

/// `GET /routes/{id}`.
pub(crate) async fn read(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
) -> Result<Response, ApiError> {
    let circuit = app.store.circuit(id(&segment, "route")?).await?;
    let circuit = circuit.ok_or(ApiError::NoSuch("route"))?;
    Ok(Answer(shown(&app, &circuit).await?).into_response())
}

/// `PUT /routes/{id}`: the session's kernel has moved to `kernel_host` and `kernel_port`.
pub(crate) async fn update(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let id: CircuitId = id(&segment, "route")?;
    let (host, port) = {
        let fields = params.fields();
        let address = address(&fields);
        fields.verdict()?;
        address.ok_or_else(|| fields.incomplete())?
    };
    if let Some(circuit) = app.endpoints.lead_elsewhere(id, &host, port).await? {
        return Ok(Answer(shown(&app, &circuit).await?).into_response());
    }
    let circuit = app.store.circuit(id).await?;
    let circuit = circuit.ok_or(ApiError::NoSuch("route"))?;
    Err(ApiError::Conflict {
        msg: "the route is an endpoint's: change its routes with /v2/endpoints/bulk/routes",
        data: json!({"endpoint": circuit.endpoint_id}),
    })
}

/// `DELETE /routes/{id}`.
pub(crate) async fn remove(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
) -> Result<Response, ApiError> {
    let id = id(&segment, "route")?;
    app.closer.close(id, &Cause::manager()).await?;
    Ok(Answer(json!({"success": true})).into_response())
}

/// `DELETE /routes?session_id=`: the session has ended, and all there is of it.
pub(crate) async fn end_session(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let session = {
        let fields = params.fields();
        let session = fields.required("session_id", params::uuid);
        fields.verdict()?;
        session.ok_or_else(|| fields.incomplete())?
    };
    let cause = Cause::now(Actor::Manager, Reason::SessionEnded);
    let (closed, changed) = app.closer.end_session(session, &cause).await?;
    Ok(Answer(json!({"success": true, "closed": closed, "changed": changed})).into_response())
}
