//! Tunnels of several gateways: what each holds, and what all of them know of each other. The
//! incumbent has nothing like it, and is told nothing of it.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use patchbay_common::tunnel::Claim;
use tokio::time::{Instant, timeout_at};

use super::App;
use super::auth::Authorized;
use super::error::ApiError;
use super::json::Answer;
use super::params::{self, Params};
use super::route_health::named_node;
use super::workers::id;

/// Longest a reader may wait for news.
const LONGEST_WAIT: u32 = 30;
/// How often a reader that waits looks for what other coordinators were told.
const POLL: Duration = Duration::from_millis(500);

/// `POST /api/worker/{id}/tunnels`: what a node holds, in place of what it told before.
pub(crate) async fn claim(
    _: Authorized,
    State(app): State<App>,
    Path(segment): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    let worker = id(&segment, "worker")?;
    let node = named_node(&headers)?;
    let claim: Claim = params.read()?;
    let settled = app.store.claim_tunnels(worker, node, &claim).await?;
    let settled = settled.ok_or(ApiError::NoSuch("worker"))?;
    app.tunnels_changed.send_modify(|count| *count += 1);
    Ok(Answer(settled).into_response())
}

/// `GET /api/tunnels`: who holds what; with `after` and `wait` only once the generation is another
/// one, or the time is over.
pub(crate) async fn list(
    _: Authorized,
    State(app): State<App>,
    params: Params,
) -> Result<Response, ApiError> {
    let (after, wait) = {
        let fields = params.fields();
        let after = fields.optional("after", params::generation);
        let wait = fields.optional("wait", params::count);
        fields.verdict()?;
        (after, wait.unwrap_or(0).min(LONGEST_WAIT))
    };
    let deadline = Instant::now() + Duration::from_secs(wait.into());
    let mut news = app.tunnels_changed.subscribe();
    loop {
        news.mark_unchanged();
        let holdings = app.store.holdings().await?;
        let now = Instant::now();
        if Some(holdings.generation) != after || now >= deadline || app.drain.is_stopping() {
            return Ok(Answer(holdings).into_response());
        }
        let until = deadline.min(now + POLL);
        tokio::select! {
            _ = timeout_at(until, news.changed()) => {}
            () = app.drain.stopping() => {}
        }
    }
}
