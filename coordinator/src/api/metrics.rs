//! What is counted, and `/metrics` (contract/metrics.md §3).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use patchbay_common::telemetry::metrics::{CONTENT_TYPE as EXPOSITION, render};
use patchbay_common::worker::{Worker, WorkerStatus};
use patchbay_listen::tls;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::compat::{self, Counted, Processor};
use super::error::{ApiError, Problem};
use super::figures::Figures;
use super::{App, Peer};
use crate::registry::Picture;

const LABELS: [&str; 6] = [
    "method",
    "endpoint",
    "domain",
    "operation",
    "error_detail",
    "status_code",
];
/// Name and help of the family that tells when certificates end.
const EXPIRY: (&str, &str) = (
    "patchbay_tls_certificate_expiry_timestamp_seconds",
    "When each certificate in use ends, in Unix seconds",
);
/// Outcomes of a publication.
const TAKEN: &str = "taken";
const FAILED: &str = "failed";
const BUCKETS: [f64; 9] = [0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// The coordinator's families. Labels are routes, words and workers' names, never clients.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    published: IntCounterVec,
    workers: IntGaugeVec,
    occupied: IntGaugeVec,
    available: IntGaugeVec,
    unavailable: IntGaugeVec,
    feeds: IntGauge,
    certificates: IntGaugeVec,
    tls: Option<Arc<tls::Live>>,
    figures: Figures,
    processor: Processor,
}

impl Metrics {
    /// All families, at zero.
    ///
    /// # Errors
    /// If a family is malformed, which is a fault of this program.
    pub fn new(tls: Option<Arc<tls::Live>>) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let gauges =
            |name: &str, help: &str, label: &str| IntGaugeVec::new(Opts::new(name, help), &[label]);
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("backendai_api_request_count_total", "API requests answered"),
                &LABELS,
            )?,
            durations: HistogramVec::new(
                HistogramOpts::new(
                    "backendai_api_request_duration_sec",
                    "Time from a request's head to its answer's head, in seconds",
                )
                .buckets(BUCKETS.to_vec()),
                &LABELS,
            )?,
            published: IntCounterVec::new(
                Opts::new(
                    "patchbay_coordinator_published_total",
                    "Events sent to workers, by bus and outcome",
                ),
                &["bus", "outcome"],
            )?,
            workers: gauges(
                "patchbay_coordinator_workers",
                "Workers known, by status",
                "status",
            )?,
            occupied: gauges(
                "patchbay_coordinator_circuits",
                "Circuits, by worker",
                "worker",
            )?,
            available: gauges(
                "patchbay_coordinator_slots",
                "Slots, by worker; -1 where they are subdomains",
                "worker",
            )?,
            unavailable: gauges(
                "patchbay_coordinator_circuits_unavailable",
                "Circuits that wait for their lost worker, by worker",
                "worker",
            )?,
            feeds: IntGauge::new(
                "patchbay_coordinator_event_streams",
                "Workers listening by stream",
            )?,
            certificates: gauges(EXPIRY.0, EXPIRY.1, "certificate")?,
            tls,
            figures: Figures::new(&registry)?,
            processor: Processor::default(),
            registry,
        };
        let all: [Box<dyn prometheus::core::Collector>; 9] = [
            Box::new(metrics.requests.clone()),
            Box::new(metrics.durations.clone()),
            Box::new(metrics.published.clone()),
            Box::new(metrics.workers.clone()),
            Box::new(metrics.occupied.clone()),
            Box::new(metrics.available.clone()),
            Box::new(metrics.unavailable.clone()),
            Box::new(metrics.feeds.clone()),
            Box::new(metrics.certificates.clone()),
        ];
        for family in all {
            metrics.registry.register(family)?;
        }
        Ok(metrics)
    }

    fn read_certificates(&self) {
        // Of certificates that are no longer in use nothing is said.
        self.certificates.reset();
        for expiry in self.tls.iter().flat_map(|tls| tls.expiries()) {
            let gauge = self.certificates.with_label_values(&[&*expiry.certificate]);
            gauge.set(expiry.not_after);
        }
    }

    /// Counts an attempt to publish.
    pub fn published(&self, bus: &'static str, taken: bool) {
        let outcome = if taken { TAKEN } else { FAILED };
        self.published.with_label_values(&[bus, outcome]).inc();
    }

    /// Notes how long after its commit an event was published.
    pub fn published_after(&self, bus: &'static str, took: Duration) {
        self.figures.published_after(bus, took);
    }

    /// Notes how an opener's wait for its circuit ended.
    pub fn waited(&self, served: Option<Duration>) {
        self.figures.waited(served);
    }

    /// Notes a piece of work of the store.
    pub fn stored(&self, doing: &'static str, took: Duration, done: bool) {
        self.figures.stored(doing, took, done);
    }

    /// Counts an answer.
    pub(crate) fn answered(
        &self,
        method: &Method,
        route: &str,
        status: StatusCode,
        problem: Option<&Problem>,
        took: Duration,
    ) {
        let (domain, operation, detail) = problem.map_or(("", "", ""), Problem::code_parts);
        let method = known(method);
        let labels = [method, route, domain, operation, detail, status.as_str()];
        self.requests.with_label_values(&labels).inc();
        self.durations
            .with_label_values(&labels)
            .observe(took.as_secs_f64());
    }

    fn set_workers(&self, workers: &[Worker]) {
        // Workers that are gone must not stay as labels.
        let by_worker = [&self.occupied, &self.available, &self.unavailable];
        for family in by_worker.into_iter().chain([&self.workers]) {
            family.reset();
        }
        for status in [WorkerStatus::Alive, WorkerStatus::Lost] {
            let count = workers
                .iter()
                .filter(|worker| worker.status == status)
                .count();
            let gauge = self.workers.with_label_values(&[status.as_str()]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for worker in workers {
            let name = [worker.authority.as_str()];
            self.occupied
                .with_label_values(&name)
                .set(worker.occupied_slots.into());
            self.available
                .with_label_values(&name)
                .set(worker.available_slots.into());
            let waiting = match worker.status {
                WorkerStatus::Alive => 0,
                _ => worker.occupied_slots,
            };
            self.unavailable
                .with_label_values(&name)
                .set(waiting.into());
        }
    }
}

/// A method as a label: clients can make methods up.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

/// `GET /metrics`, for the networks of `metric_access_allowed_hosts`.
pub(crate) async fn expose(
    State(app): State<App>,
    peer: Option<Extension<Peer>>,
) -> Result<Response, ApiError> {
    let address = peer.map(|Extension(Peer(address))| address.ip().to_canonical());
    let allowed = |address: IpAddr| app.metric_networks.iter().any(|net| net.contains(&address));
    if !address.is_some_and(allowed) {
        return Err(ApiError::Forbidden(
            "this address is not among metric_access_allowed_hosts",
        ));
    }
    let workers = app.store.workers().await?;
    app.metrics.set_workers(&workers);
    let counted = app.store.figures().await?;
    let picture = Picture::take(app.store.as_ref()).await?;
    app.metrics.figures.set(&workers, &counted, &picture);
    let feeds = i64::try_from(app.streams.open_feeds()).unwrap_or(i64::MAX);
    app.metrics.feeds.set(feeds);
    app.metrics.read_certificates();
    let mut text = render(&app.metrics.registry);
    let sent = |outcome| {
        let labels = ["redis", outcome];
        app.metrics.published.with_label_values(&labels).get()
    };
    let counted = Counted {
        heard: app.acknowledgements.heard_so_far(),
        sent: sent(TAKEN),
        unsent: sent(FAILED),
    };
    compat::append(&mut text, &app.metrics.processor, counted);
    Ok(([(CONTENT_TYPE, EXPOSITION)], text).into_response())
}
