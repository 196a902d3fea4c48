//! The families and their prefetched handles.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::{Engine, RequestFacts};
use crate::error::{Problem, Refusal};
use crate::lane::Reason;

/// Seconds: from what a cache answers in to what a model needs.
const LATENCY: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// The incumbent's buckets for API calls (contract/metrics.md §3).
const API_LATENCY: &[f64] = &[0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// How a request ended, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A status of this hundred.
    Status(usize),
    /// The client broke off before it had an answer.
    ClientGone,
    /// No status was sent.
    None,
}

const CLASSES: [&str; 7] = ["1xx", "2xx", "3xx", "4xx", "5xx", "client_gone", "none"];

impl Class {
    pub(super) fn of(facts: &RequestFacts<'_>) -> Self {
        match facts.status {
            499 if facts.client_gone => Self::ClientGone,
            status @ 100..=599 => Self::Status(usize::from(status / 100)),
            _ => Self::None,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Status(hundred) => hundred - 1,
            Self::ClientGone => 5,
            Self::None => 6,
        }
    }
}

/// What carries bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Requests and answers.
    Http,
    /// WebSockets.
    WebSocket,
    /// TCP circuits.
    Tcp,
    /// Streams of events, whose bytes are counted with the requests.
    Events,
}

const ENGINES: [&str; 2] = ["lane", "proxy"];
const KINDS: [&str; 4] = ["http", "websocket", "tcp", "events"];

/// Counts of one kind of traffic.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) received: IntCounter,
    pub(super) sent: IntCounter,
    /// Streams only.
    pub(super) opened: IntCounter,
    /// Streams only.
    pub(super) closed: IntCounter,
}

/// Gauges read when the text is asked for.
#[derive(Debug)]
pub(super) struct Gauges {
    pub(super) connections: IntGauge,
    pub(super) circuits: IntGauge,
    pub(super) activity_queue: IntGauge,
    pub(super) generation: IntGauge,
    pub(super) lag: IntGauge,
    pub(super) fetches: IntGauge,
    pub(super) fetch_age: Gauge,
    pub(super) bus: IntGaugeVec,
    pub(super) coordinator_up: IntGauge,
    pub(super) redis_up: IntGauge,
    pub(super) ready: IntGauge,
    pub(super) resident: IntGauge,
    pub(super) certificates: IntGaugeVec,
}

/// Everything counted.
#[derive(Debug)]
pub(super) struct Families {
    pub(super) registry: Registry,
    pub(super) duration: Histogram,
    pub(super) first_byte: Histogram,
    pub(super) gauges: Gauges,
    by_class: Vec<IntCounter>,
    by_kind: Vec<Traffic>,
    by_engine: Vec<IntCounter>,
    by_reason: Vec<IntCounter>,
    refusals: IntCounterVec,
    upstream_errors: IntCounterVec,
    api_count: IntCounterVec,
    api_duration: HistogramVec,
}

/// Makes families and registers them.
struct Maker(Registry);

impl Maker {
    /// Calls of the worker's API, counted and timed.
    fn api(&self) -> prometheus::Result<(IntCounterVec, HistogramVec)> {
        let labels = [
            "method",
            "endpoint",
            "domain",
            "operation",
            "error_detail",
            "status_code",
        ];
        let count = self.counters(
            "backendai_api_request_count_total",
            "Calls of the worker's API.",
            &labels,
        )?;
        let duration = HistogramOpts::new(
            "backendai_api_request_duration_sec",
            "Time to answer calls of the worker's API, in seconds.",
        );
        let duration = HistogramVec::new(duration.buckets(API_LATENCY.to_vec()), &labels)?;
        Ok((count, self.add(duration)?))
    }

    fn add<C: Collector + Clone + 'static>(&self, family: C) -> prometheus::Result<C> {
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help)?)
    }

    fn latency(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        let opts = HistogramOpts::new(name, help).buckets(LATENCY.to_vec());
        self.add(Histogram::with_opts(opts)?)
    }

    fn traffic(&self) -> prometheus::Result<Vec<Traffic>> {
        let received = self.counters(
            "patchbay_received_bytes_total",
            "Body and stream bytes received from clients.",
            &["kind"],
        )?;
        let sent = self.counters(
            "patchbay_sent_bytes_total",
            "Body and stream bytes sent to clients.",
            &["kind"],
        )?;
        let opened = self.counters(
            "patchbay_streams_opened_total",
            "WebSockets, TCP connections and streams of events opened.",
            &["kind"],
        )?;
        let closed = self.counters(
            "patchbay_streams_closed_total",
            "WebSockets, TCP connections and streams of events closed.",
            &["kind"],
        )?;
        let kinds = KINDS.iter().map(|kind| Traffic {
            received: received.with_label_values(&[kind]),
            sent: sent.with_label_values(&[kind]),
            opened: opened.with_label_values(&[kind]),
            closed: closed.with_label_values(&[kind]),
        });
        Ok(kinds.collect())
    }

    fn gauges(&self) -> prometheus::Result<Gauges> {
        let bus = Opts::new("patchbay_sync_bus", "1 for the bus changes are heard by.");
        let certificates = Opts::new(
            "patchbay_tls_certificate_expiry_timestamp_seconds",
            "When each certificate in use ends, in Unix seconds.",
        );
        let age = Gauge::new(
            "patchbay_sync_last_fetch_age_seconds",
            "Time since all circuits were last fetched.",
        )?;
        Ok(Gauges {
            connections: self.gauge("patchbay_connections", "Client connections that are open.")?,
            circuits: self.gauge("patchbay_circuits", "Circuits in the table.")?,
            activity_queue: self.gauge(
                "patchbay_activity_queue",
                "Circuits and sessions whose use is not written to Redis yet.",
            )?,
            generation: self.gauge(
                "patchbay_sync_generation",
                "The table holds every change up to here.",
            )?,
            lag: self.gauge(
                "patchbay_sync_lag",
                "Changes heard of but not in the table.",
            )?,
            fetches: self.gauge("patchbay_sync_fetches", "Full fetches since the start.")?,
            fetch_age: self.add(age)?,
            bus: self.add(IntGaugeVec::new(bus, &["bus"])?)?,
            coordinator_up: self.gauge(
                "patchbay_coordinator_up",
                "1 if the last call to the coordinator was answered.",
            )?,
            redis_up: self.gauge("patchbay_redis_up", "1 if Redis is subscribed.")?,
            ready: self.gauge("patchbay_ready", "1 once the circuits were fetched.")?,
            certificates: self.add(IntGaugeVec::new(certificates, &["certificate"])?)?,
            resident: self.gauge("process_resident_memory_bytes", "Resident memory.")?,
        })
    }
}

impl Families {
    pub(super) fn new() -> prometheus::Result<Self> {
        let make = Maker(Registry::new());
        let requests = make.counters(
            "patchbay_requests_total",
            "Requests over circuits, by class of the status sent.",
            &["class"],
        )?;
        let engines = make.counters(
            "patchbay_engine_requests_total",
            "Requests over circuits, by the engine that carried them.",
            &["engine"],
        )?;
        let hand_overs = make.counters(
            "patchbay_lane_hand_overs_total",
            "Requests the fast lane left to the other engine, by what was not plain about them.",
            &["reason"],
        )?;
        let build = make.add(IntGaugeVec::new(
            Opts::new("patchbay_build_info", "1; the label names the release."),
            &["version"],
        )?)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let (api_count, api_duration) = make.api()?;
        Ok(Self {
            duration: make.latency(
                "patchbay_request_duration_seconds",
                "Time from a request's head to the end of its answer.",
            )?,
            first_byte: make.latency(
                "patchbay_first_byte_seconds",
                "Time from a request's head to the head of the app's answer.",
            )?,
            gauges: make.gauges()?,
            by_class: CLASSES
                .iter()
                .map(|class| requests.with_label_values(&[class]))
                .collect(),
            by_kind: make.traffic()?,
            by_engine: ENGINES
                .iter()
                .map(|engine| engines.with_label_values(&[engine]))
                .collect(),
            by_reason: Reason::ALL
                .iter()
                .map(|reason| hand_overs.with_label_values(&[reason.as_str()]))
                .collect(),
            refusals: make.counters(
                "patchbay_refusals_total",
                "Requests not carried, by the incumbent's error code.",
                &["error_code"],
            )?,
            upstream_errors: make.counters(
                "patchbay_upstream_errors_total",
                "Requests that failed at the app, by what went wrong.",
                &["kind"],
            )?,
            api_count,
            api_duration,
            registry: make.0,
        })
    }

    pub(super) fn requests(&self, class: Class) -> &IntCounter {
        &self.by_class[class.index()]
    }

    pub(super) fn engine(&self, engine: Engine) -> &IntCounter {
        &self.by_engine[engine as usize]
    }

    pub(super) fn hand_over(&self, reason: Reason) -> &IntCounter {
        &self.by_reason[reason as usize]
    }

    pub(super) fn stream(&self, kind: Kind) -> &Traffic {
        &self.by_kind[kind as usize]
    }

    pub(super) fn carried(&self, kind: Kind, received: u64, sent: u64) {
        let traffic = self.stream(kind);
        if received > 0 {
            traffic.received.inc_by(received);
        }
        if sent > 0 {
            traffic.sent.inc_by(sent);
        }
    }

    /// All requests that have ended.
    pub(super) fn all_requests(&self) -> u64 {
        self.by_class.iter().map(IntCounter::get).sum()
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        let code = Problem::from(refusal).error_code;
        self.refusals.with_label_values(&[code]).inc();
        let kind = match refusal {
            Refusal::UpstreamConnect => "connect",
            Refusal::UpstreamConnectTimeout => "connect_timeout",
            Refusal::UpstreamBroke => "broke",
            Refusal::UpstreamTimeout => "timeout",
            Refusal::TimedOut(which) => which.kind(),
            Refusal::NoUpstream => "none_in_service",
            _ => return,
        };
        self.upstream_errors.with_label_values(&[kind]).inc();
    }

    pub(super) fn api(
        &self,
        method: &str,
        endpoint: &str,
        status: u16,
        error: Option<&str>,
        duration: Duration,
    ) {
        let mut parts = error.unwrap_or_default().splitn(3, '_');
        let mut part = || parts.next().unwrap_or_default();
        let status = status.to_string();
        let labels = [method, endpoint, part(), part(), part(), &status];
        self.api_count.with_label_values(&labels).inc();
        let duration = duration.as_secs_f64();
        self.api_duration
            .with_label_values(&labels)
            .observe(duration);
    }
}
