//! The worker's own API: health, status, metrics, and the `/setup` handshake
//! (contract/rest-worker.md §1). `wiring` gives it to the accept loop of the API's address. It
//! translates between HTTP and the rooms that know the answers, and refuses to know more.

mod cors;
mod error;
mod health;
mod reply;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use http::{Method, Response};
use ipnet::IpNet;
use patchbay_common::config::Secret;
use patchbay_common::request_id::{self, RequestId};
use patchbay_common::telemetry::metrics;
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use serde::Deserialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use crate::config::Config;
use crate::explain::{Explain, Record};
use crate::metrics::Metrics;
use crate::setup::{Answer, Ask, Setup, SetupError};
use crate::sync::Link;
pub use error::ApiError;
use health::{Health, Probe};
use reply::{Call, Reply};

/// The header with the API's secret (contract/rest-worker.md §3).
const TOKEN: &str = "x-backendai-token";
/// Largest body read, in bytes.
const MAX_BODY: usize = 64 << 10;

/// The API.
#[derive(Debug)]
pub struct Admin {
    setup: Setup,
    link: Arc<Link>,
    metrics: Arc<Metrics>,
    metric_access: Vec<IpNet>,
    health: Health,
    explain: Arc<Explain>,
    secret: Secret,
}

/// The routes; all of them answer GET and HEAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Health(Probe),
    Status,
    WorkerStatus,
    Metrics,
    Setup,
    Explain,
}

/// What the path of [`Route::Explain`] begins with.
const EXPLAIN: &str = "/api/explain/";

impl Route {
    fn of(path: &str) -> Option<(Self, &'static str)> {
        Some(match path {
            "" | "/" => (Self::Health(Probe::Whole), "/"),
            "/livez" => (Self::Health(Probe::Live), "/livez"),
            "/readyz" => (Self::Health(Probe::Ready), "/readyz"),
            "/health" => (Self::Health(Probe::Whole), "/health"),
            "/health/livez" => (Self::Health(Probe::Live), "/health/livez"),
            "/health/readyz" => (Self::Health(Probe::Ready), "/health/readyz"),
            "/health/status" => (Self::WorkerStatus, "/health/status"),
            "/status" => (Self::Status, "/status"),
            "/metrics" => (Self::Metrics, "/metrics"),
            "/setup" => (Self::Setup, "/setup"),
            path if path.starts_with(EXPLAIN) => (Self::Explain, "/api/explain/{request_id}"),
            _ => return None,
        })
    }
}

impl Admin {
    /// As configured.
    pub fn new(
        config: &Config,
        setup: Setup,
        link: Arc<Link>,
        metrics: Arc<Metrics>,
        explain: Arc<Explain>,
    ) -> Self {
        Self {
            explain,
            secret: config.api_secret.clone(),
            setup,
            link,
            metrics,
            metric_access: config.metric_access.clone(),
            health: Health::new(config),
        }
    }

    async fn answer(&self, call: &Call, session: &mut ServerSession) -> Result<Reply, ApiError> {
        let Some((route, _)) = Route::of(&call.path) else {
            return Err(ApiError::NoRoute);
        };
        if call.method == Method::OPTIONS && route != Route::Setup {
            return cors::preflight(call);
        }
        if call.method != Method::GET && call.method != Method::HEAD {
            return Err(ApiError::Method(call.method.to_string()));
        }
        match route {
            Route::Health(probe) => {
                let (status, body) = self.health.report(probe, &self.link.status());
                Ok(Reply::json(status, &body))
            }
            Route::Status => Ok(Reply::json(200, &json!({"api_version": "v2"}))),
            Route::WorkerStatus => {
                let occupied = self.metrics.circuits();
                Ok(Reply::json(200, &self.health.worker(occupied)))
            }
            Route::Metrics if self.may_read_metrics(call.peer) => Ok(Reply::new(
                200,
                metrics::CONTENT_TYPE,
                self.metrics.render().into_bytes(),
            )),
            Route::Metrics => Err(ApiError::Forbidden),
            Route::Setup => self.set_up(call, session).await,
            Route::Explain => self.explain(call),
        }
    }

    /// What became of a request: for who holds the secret that coordinator and workers share.
    fn explain(&self, call: &Call) -> Result<Reply, ApiError> {
        let token = call.headers.get(TOKEN).map(http::HeaderValue::as_bytes);
        let secret = self.secret.expose().as_bytes();
        if !token.is_some_and(|token| bool::from(token.ct_eq(secret))) {
            return Err(ApiError::Token);
        }
        let id = call.path.strip_prefix(EXPLAIN).unwrap_or_default();
        let found = self.explain.find(id);
        if found.is_empty() {
            return Err(ApiError::NotRemembered);
        }
        let records: Vec<_> = found.iter().map(Record::to_json).collect();
        Ok(Reply::json(200, &json!({"requests": records})))
    }

    fn may_read_metrics(&self, peer: Option<IpAddr>) -> bool {
        peer.is_some_and(|peer| {
            let peer = peer.to_canonical();
            self.metric_access.iter().any(|net| net.contains(&peer))
        })
    }

    async fn set_up(&self, call: &Call, session: &mut ServerSession) -> Result<Reply, ApiError> {
        let token = match body_token(session).await? {
            Some(token) => Some(token),
            None => call.query_value("token"),
        };
        let token = token.filter(|token| !token.is_empty());
        let answer = self
            .setup
            .answer(Ask {
                token: &token.ok_or(SetupError::NoToken)?,
                host: call.host_name(),
                worker: self.link.status().worker,
                now: unix_now(),
            })
            .await?;
        Ok(match answer {
            Answer::Redirect { location, cookies } => Reply::found(&location, &cookies),
            Answer::Gateway(url) => Reply::json(200, &json!({"redirect": url, "redirectURI": url})),
        }
        .for_everyone())
    }

    fn finished(&self, call: &Call, status: u16, error: Option<&ApiError>, began: Instant) {
        let took = began.elapsed();
        let route = Route::of(&call.path);
        let level = match (route, status) {
            // Probes and scrapes come all day.
            (Some((Route::Health(_) | Route::Metrics, _)), ..400) => log::Level::Debug,
            (_, 500..) => log::Level::Warn,
            _ => log::Level::Info,
        };
        log::log!(
            target: "patchbay_worker::admin",
            level,
            method = call.method.as_str(),
            path = call.path.as_str(),
            status = status,
            duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            peer = call.peer.map(|peer| peer.to_string()).unwrap_or_default();
            "{}", error.map_or_else(|| "API call".to_owned(), ToString::to_string)
        );
        // As in the incumbent, what no route answers is not counted; its labels would be endless.
        if let Some((_, endpoint)) = route
            && !matches!(error, Some(ApiError::Method(_)))
        {
            let code = error.map(|error| error.problem().error_code);
            let method = call.method.as_str();
            self.metrics
                .api_finished((method, endpoint), status, code, took);
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let began = Instant::now();
        let accepted = RequestId::accept(|name| {
            let value = session.get_header(name)?;
            Some(value.as_bytes())
        });
        let call = Call::of(session);
        let id = accepted.id.clone();
        request_id::scope(accepted.id, async {
            if accepted.refused {
                log::info!("the request id offered is not well formed: a fresh one is used");
            }
            let answered = self.answer(&call, session).await;
            let (reply, error) = match answered {
                Ok(reply) => (reply, None),
                Err(error) => (error.render(&call, &id), Some(error)),
            };
            self.finished(&call, reply.status(), error.as_ref(), began);
            if !session.is_http2() && !session.is_body_done() {
                // What is left of the body must never be looked at for the next head.
                session.set_keepalive(None);
            }
            reply.into_response(&call, &id)
        })
        .await
    }
}

/// The token of a JSON body; `None` if there is no body.
async fn body_token(session: &mut ServerSession) -> Result<Option<String>, ApiError> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        token: Option<String>,
    }
    let mut body = Vec::new();
    while let Some(chunk) = session
        .read_request_body()
        .await
        .map_err(|_| ApiError::Body)?
    {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(ApiError::Body);
        }
        body.extend_from_slice(&chunk);
    }
    if body.is_empty() {
        return Ok(None);
    }
    let body: Body = serde_json::from_slice(&body).map_err(|_| ApiError::Body)?;
    Ok(Some(body.token.unwrap_or_default()))
}

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
