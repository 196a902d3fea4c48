//! `/status` and `/health*` (contract/rest-coordinator.md §7).
//!
//! The checks run in the background; answers only repeat what was found last. Being alive depends
//! on nothing outside the process, and being ready on the store alone: without Redis workers are
//! served by stream, and a probe that failed then would turn a degraded system into a dead one.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use http::StatusCode;
use patchbay_common::timestamp;
use patchbay_common::worker::{Worker, WorkerStatus};
use serde::Serialize;

use super::App;
use super::auth::Authorized;
use super::error::ApiError;
use super::json::Answer;
use crate::publish::redis::Redis;
use crate::store::Store;

const EVERY: Duration = Duration::from_secs(5);
const WITHIN: Duration = Duration::from_secs(3);
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A worker silent for longer is not listed by `/health/status`.
const RECENT: TimeDelta = TimeDelta::seconds(30);

/// One part the coordinator depends on, as last seen.
#[derive(Clone, Debug, Serialize)]
pub struct Component {
    service_group: &'static str,
    component_id: &'static str,
    is_healthy: bool,
    #[serde(with = "timestamp")]
    last_checked_at: DateTime<Utc>,
    error_message: Option<String>,
}

impl Component {
    fn new(group: &'static str, id: &'static str, outcome: Result<(), String>) -> Self {
        Self {
            service_group: group,
            component_id: id,
            is_healthy: outcome.is_ok(),
            last_checked_at: timestamp::now(),
            error_message: outcome.err(),
        }
    }

    fn is_database(&self) -> bool {
        self.service_group == "database"
    }
}

/// What was found last.
pub struct Health {
    database: &'static str,
    found: ArcSwap<Vec<Component>>,
}

impl Health {
    /// Nothing looked at yet. `database` names the store in answers.
    pub fn new(database: &'static str) -> Self {
        let unknown = || Err("not checked yet".to_owned());
        let found = ArcSwap::from_pointee(vec![Component::new("database", database, unknown())]);
        Self { database, found }
    }

    /// Looks at the parts again and again until the process ends.
    pub async fn watch(&self, store: &dyn Store, redis: Option<&Redis>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(store, redis).await;
        }
    }

    /// Looks once.
    pub async fn look(&self, store: &dyn Store, redis: Option<&Redis>) {
        let database = match tokio::time::timeout(WITHIN, store.ping()).await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", WITHIN.as_secs())),
        };
        let mut found = Vec::with_capacity(3);
        if let Some(redis) = redis {
            let connected = redis.is_connected().then_some(());
            let outcome = || connected.ok_or_else(|| "not connected".to_owned());
            found.push(Component::new("redis", "live", outcome()));
            found.push(Component::new("redis", "schedule", outcome()));
        }
        found.push(Component::new("database", self.database, database));
        self.found.store(Arc::new(found));
    }
}

#[derive(Serialize)]
struct HealthView {
    status: &'static str,
    version: &'static str,
    component: &'static str,
    connectivity: Connectivity,
}

#[derive(Serialize)]
struct Connectivity {
    overall_healthy: bool,
    connectivity_checks: Vec<Component>,
    #[serde(with = "timestamp")]
    timestamp: DateTime<Utc>,
}

fn view(app: &App, keep: impl Fn(&Component) -> bool) -> Connectivity {
    let found = app.health.found.load();
    let connectivity_checks: Vec<Component> = found.iter().filter(|c| keep(c)).cloned().collect();
    Connectivity {
        overall_healthy: connectivity_checks.iter().all(|check| check.is_healthy),
        connectivity_checks,
        timestamp: timestamp::now(),
    }
}

fn answer(status: &'static str, connectivity: Connectivity) -> Answer<HealthView> {
    Answer(HealthView {
        status,
        version: VERSION,
        component: "appproxy-coordinator",
        connectivity,
    })
}

/// `GET /health`: how everything is; always 200.
pub(crate) async fn overall(State(app): State<App>) -> Response {
    let connectivity = view(&app, |_| true);
    let word = if connectivity.overall_healthy {
        "ok"
    } else {
        "degraded"
    };
    answer(word, connectivity).into_response()
}

/// `GET /health/livez`: the process answers.
pub(crate) async fn alive(State(app): State<App>) -> Response {
    answer("ok", view(&app, |check| !check.is_database())).into_response()
}

/// `GET /health/readyz`: the process can do its work.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let connectivity = view(&app, |_| true);
    let checks = &connectivity.connectivity_checks;
    let ready = !app.drain.is_stopping()
        && checks
            .iter()
            .filter(|check| check.is_database())
            .all(|check| check.is_healthy);
    if ready {
        answer("ok", connectivity).into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            answer("error", connectivity),
        )
            .into_response()
    }
}

#[derive(Serialize)]
struct Fleet {
    coordinator_version: &'static str,
    appproxy_api_version: &'static str,
    workers: Vec<FleetWorker>,
}

#[derive(Serialize)]
struct FleetWorker {
    authority: String,
    available_slots: i32,
    occupied_slots: i32,
    ha_setup: bool,
}

/// `GET /health/status`: the workers heard of lately.
pub(crate) async fn workers(_: Authorized, State(app): State<App>) -> Result<Response, ApiError> {
    let since = Utc::now() - RECENT;
    let recent =
        |worker: &Worker| worker.status == WorkerStatus::Alive && worker.updated_at >= since;
    let workers = app.store.workers().await?;
    let workers = workers
        .into_iter()
        .filter(recent)
        .map(|worker| FleetWorker {
            authority: worker.authority,
            available_slots: worker.available_slots,
            occupied_slots: worker.occupied_slots,
            ha_setup: worker.nodes > 1,
        })
        .collect();
    Ok(Answer(Fleet {
        coordinator_version: VERSION,
        appproxy_api_version: "v2",
        workers,
    })
    .into_response())
}

#[derive(Serialize)]
struct Status<'a> {
    api_version: &'static str,
    advertise_address: &'a str,
}

/// `GET /status`: what the Manager asks first.
pub(crate) async fn status(State(app): State<App>) -> Response {
    Answer(Status {
        api_version: "v2",
        advertise_address: &app.advertise_url,
    })
    .into_response()
}
