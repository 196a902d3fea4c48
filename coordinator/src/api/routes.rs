//! The table: path, method, handler (contract/rest-coordinator.md §6).

use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use axum::{Router, extract::OriginalUri};
use http::Method;

use super::endpoints::{bulk, single};
use super::error::ApiError;
use super::{
    App, audit, circuits, cors, edge, events, fleet, health, mappings, metrics, openapi, proxy,
    relay, revocations, route_health, services, slots, tunnels, uses, workers,
};

/// The whole API.
pub fn router(app: App) -> Router {
    let relayed = app.relay.as_ref().map(|_| relay::routes());
    let relayed = relayed.unwrap_or_default();
    let table = Router::new()
        .route("/status", shared(get(health::status)))
        .route("/health", shared(get(health::overall)))
        .route("/health/livez", shared(get(health::alive)))
        .route("/health/readyz", shared(get(health::ready)))
        .route("/health/status", shared(get(health::workers)))
        .route("/metrics", shared(get(metrics::expose)))
        .route("/openapi.json", shared(get(openapi::document_json)))
        .route("/docs", shared(get(openapi::page)))
        .route("/v2/conf", shared(post(proxy::conf)))
        .route("/v2/proxy/auth", get(proxy::auth).post(proxy::auth_or_open))
        .route("/v2/proxy/{token}/{session}/add", get(proxy::add))
        .route(
            "/v2/proxy/{token}/{session}/delete",
            get(proxy::remove).delete(proxy::remove),
        )
        .route(
            "/api/worker",
            shared(get(workers::list).put(workers::register)),
        )
        .route(
            "/api/worker/{id}",
            shared(
                patch(workers::heartbeat)
                    .get(workers::read)
                    .delete(workers::leave),
            ),
        )
        .route("/api/worker/{id}/circuits", shared(get(workers::circuits)))
        .route("/api/worker/{id}/events", shared(get(events::listen)))
        .route(
            "/api/worker/{id}/acknowledgements",
            shared(post(workers::acknowledge)),
        )
        .route(
            "/api/circuit/{id}",
            shared(get(circuits::read).delete(circuits::close)),
        )
        .route(
            "/api/circuit/{id}/statistics",
            shared(get(circuits::statistics)),
        )
        .route(
            "/api/circuit/{id}/revocations",
            shared(get(revocations::list).post(revocations::revoke)),
        )
        .route("/api/circuit/_/bulk", shared(delete(circuits::close_many)))
        .route("/api/audit", shared(get(audit::list)))
        .route("/api/slots", shared(get(slots::list)))
        .route("/v1/api/worker", shared(get(slots::workers_v1)))
        .route("/v1/api/slots", shared(get(slots::list_v1)))
        .route("/v1/api/circuit/{id}", shared(delete(circuits::close)))
        .route("/api/v1/route", shared(post(relay::route)))
        .merge(endpoints())
        .merge(conditions())
        .merge(own())
        .merge(gateway())
        .merge(relayed)
        .method_not_allowed_fallback(no_method)
        .fallback(no_route)
        .layer(from_fn(edge::note_route))
        .with_state(app.clone());
    Router::new()
        .fallback_service(table)
        .layer(from_fn_with_state(app, edge::exchange))
}

/// How routes are, and who holds tunnels.
fn conditions() -> Router<App> {
    Router::new()
        .route("/health/summary", shared(get(route_health::summary)))
        .route("/health/endpoints", shared(get(route_health::endpoints)))
        .route(
            "/health/circuits/{circuit_id}",
            shared(get(route_health::circuit)),
        )
        .route(
            "/api/worker/{id}/route-health",
            shared(post(route_health::report)),
        )
        .route("/api/worker/{id}/uses", shared(post(uses::note)))
        .route("/api/worker/{id}/tunnels", shared(post(tunnels::claim)))
        .route("/api/tunnels", shared(get(tunnels::list)))
}

/// What the Manager calls for model serving.
fn endpoints() -> Router<App> {
    Router::new()
        .route(
            "/v2/endpoints/bulk",
            shared(post(bulk::open).delete(bulk::remove)),
        )
        .route("/v2/endpoints/bulk/routes", shared(post(bulk::replace)))
        .route(
            "/v2/endpoints/bulk/routes/register",
            shared(post(bulk::register)),
        )
        .route(
            "/v2/endpoints/bulk/routes/unregister",
            shared(post(bulk::unregister)),
        )
        .route(
            "/v2/endpoints/{id}",
            shared(post(single::open).delete(single::remove)),
        )
        .route(
            "/v2/endpoints/{id}/health-check",
            shared(put(single::set_health_check)),
        )
        .route("/v2/endpoints/{id}/token", shared(post(single::token)))
}

/// Workers and circuits by the names of the coordinator's own document.
fn own() -> Router<App> {
    Router::new()
        .route("/workers", shared(get(fleet::list)))
        .route("/workers/register", shared(post(fleet::register)))
        .route("/workers/{id}", shared(delete(fleet::leave)))
        .route(
            "/routes",
            shared(
                post(mappings::create)
                    .get(mappings::list)
                    .delete(mappings::end_session),
            ),
        )
        .route(
            "/routes/{id}",
            shared(
                get(mappings::read)
                    .put(mappings::update)
                    .delete(mappings::remove),
            ),
        )
}

/// Services of the gateway.
fn gateway() -> Router<App> {
    Router::new()
        .route("/api/services", shared(get(services::list)))
        .route(
            "/api/services/{name}",
            shared(
                get(services::read)
                    .put(services::put)
                    .delete(services::remove),
            ),
        )
        .route("/api/services/_/events", shared(get(services::listen)))
        .route("/api/services/_/audit", shared(get(services::audit)))
}

/// A path that pages of other origins may call.
fn shared(methods: MethodRouter<App>) -> MethodRouter<App> {
    methods.options(cors::preflight)
}

async fn no_route(OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::NoRoute(uri.path().to_owned())
}

async fn no_method(method: Method) -> ApiError {
    ApiError::Method(method)
}
