//! The table: path, method, handler (contract/rest-coordinator.md §6).

use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, get, patch, post};
use axum::{Router, extract::OriginalUri};
use http::Method;

use super::error::ApiError;
use super::{App, circuits, cors, edge, events, health, metrics, proxy, workers};

/// The whole API.
pub fn router(app: App) -> Router {
    let table = Router::new()
        .route("/status", shared(get(health::status)))
        .route("/health", shared(get(health::overall)))
        .route("/health/livez", shared(get(health::alive)))
        .route("/health/readyz", shared(get(health::ready)))
        .route("/health/status", shared(get(health::workers)))
        .route("/metrics", shared(get(metrics::expose)))
        .route("/v2/conf", shared(post(proxy::conf)))
        .route("/v2/proxy/auth", get(proxy::auth).post(proxy::auth_or_open))
        .route("/v2/proxy/{token}/{session}/add", get(proxy::add))
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
        .method_not_allowed_fallback(no_method)
        .fallback(no_route)
        .layer(from_fn(edge::note_route))
        .with_state(app.clone());
    Router::new()
        .fallback_service(table)
        .layer(from_fn_with_state(app, edge::exchange))
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
