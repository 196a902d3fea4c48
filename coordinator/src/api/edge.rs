//! What every exchange passes through, in this order: request id, the handler, rendering of
//! errors, cross-origin headers, metrics, the access-log line.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{HeaderValue, ORIGIN, SERVER};

use super::error::Problem;
use super::relay::Relayed;
use super::{App, cors, error, request_id};

const SERVER_NAME: HeaderValue = HeaderValue::from_static("BackendAI");
/// Label of requests that match no route, so that paths cannot multiply metrics.
const NO_ROUTE: &str = "unmatched";

/// Wraps one exchange.
pub(crate) async fn exchange(State(app): State<App>, request: Request, next: Next) -> Response {
    let accepted = request_id::accept(request.headers());
    let id = accepted.id.clone();
    patchbay_common::request_id::scope(id, async move {
        if accepted.refused {
            log::warn!("the client's request id is not well formed and was replaced");
        }
        let mut response = answer(&app, request, next).await;
        // An app's answer is its own.
        if response.extensions().get::<Relayed>().is_none() {
            response.headers_mut().insert(SERVER, SERVER_NAME);
        }
        response
    })
    .await
}

async fn answer(app: &App, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let headers = request.headers().clone();

    let response = next.run(request).await;
    let mut response = error::render(&headers, response);
    if let Some(id) = patchbay_common::request_id::current() {
        request_id::echo(&id, response.headers_mut());
    }
    let status = response.status();
    if response.extensions().get::<Relayed>().is_none() {
        cors::open_up(&path, headers.get(ORIGIN), status, response.headers_mut());
    }

    let route = response.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    let took = started.elapsed();
    let problem = response.extensions().get::<Problem>();
    app.metrics.answered(&method, route, status, problem, took);
    request_id::log_access(&method, route, status, took);
    response
}

/// Notes the matched route where [`exchange`], which runs outside the router, can read it.
pub(crate) async fn note_route(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    if let Some(route) = route {
        response.extensions_mut().insert(route);
    }
    response
}
