//! What `/metrics` shows beside answers: circuits, slots, routes, events, acknowledgements and the
//! store. Labels are words of the domain, workers' names and the store's own words for what it
//! does, all of which are few.

use std::time::Duration;

use patchbay_common::circuit::{AppMode, FrontendMode, Protocol};
use patchbay_common::worker::Worker;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::registry::Picture;
use crate::store;

/// Buckets of what takes from a tenth of a millisecond to the patience of an opener.
const BUCKETS: [f64; 11] = [
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0,
];
const MODES: [AppMode; 2] = [AppMode::Interactive, AppMode::Inference];
/// What circuits are stored with ([`Protocol::carried`]).
const PROTOCOLS: [Protocol; 4] = [Protocol::Http, Protocol::Grpc, Protocol::H2, Protocol::Tcp];

/// The families.
pub(crate) struct Figures {
    circuits: IntGaugeVec,
    used: IntGaugeVec,
    free: IntGaugeVec,
    routes: IntGauge,
    outbox: IntGauge,
    publishing: HistogramVec,
    acknowledged: Histogram,
    acknowledgements: IntCounterVec,
    store: HistogramVec,
    store_failures: IntCounterVec,
}

impl Figures {
    /// All families, registered.
    ///
    /// # Errors
    /// If a family is malformed, which is a fault of this program.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let name = |name: &str| format!("patchbay_coordinator_{name}");
        let gauges = |part: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name(part), help), labels)
        };
        let counters = |part: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name(part), help), labels)
        };
        let timing =
            |part: &str, help: &str| HistogramOpts::new(name(part), help).buckets(BUCKETS.to_vec());
        let figures = Self {
            circuits: gauges(
                "open_circuits",
                "Circuits, by mode and protocol",
                &["mode", "protocol"],
            )?,
            used: gauges(
                "slots_used",
                "Slots that circuits hold, by worker",
                &["worker"],
            )?,
            free: gauges(
                "slots_free",
                "Ports without a circuit, by worker of ports: at 0 nothing can be opened there",
                &["worker"],
            )?,
            routes: IntGauge::new(name("routes_unhealthy"), "Routes out of service")?,
            outbox: IntGauge::new(
                name("outbox_events"),
                "Events committed and not yet published",
            )?,
            publishing: HistogramVec::new(
                timing(
                    "publish_seconds",
                    "From an event's commit to its publication, by bus",
                ),
                &["bus"],
            )?,
            acknowledged: Histogram::with_opts(timing(
                "acknowledgement_seconds",
                "From a circuit's announcement to the word that it is served",
            ))?,
            acknowledgements: counters(
                "acknowledgements_total",
                "Waits for the word that a circuit is served, by outcome",
                &["outcome"],
            )?,
            store: HistogramVec::new(
                timing("store_seconds", "Work of the store, by what is done"),
                &["operation"],
            )?,
            store_failures: counters(
                "store_failures_total",
                "Work of the store that came to nothing, by what was tried",
                &["operation"],
            )?,
        };
        figures.register(registry)?;
        for outcome in ["served", "given_up"] {
            figures.acknowledgements.with_label_values(&[outcome]);
        }
        Ok(figures)
    }

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let all: [Box<dyn Collector>; 10] = [
            Box::new(self.circuits.clone()),
            Box::new(self.used.clone()),
            Box::new(self.free.clone()),
            Box::new(self.routes.clone()),
            Box::new(self.outbox.clone()),
            Box::new(self.publishing.clone()),
            Box::new(self.acknowledged.clone()),
            Box::new(self.acknowledgements.clone()),
            Box::new(self.store.clone()),
            Box::new(self.store_failures.clone()),
        ];
        all.into_iter()
            .try_for_each(|family| registry.register(family))
    }

    /// An event was published, this long after its commit.
    pub(crate) fn published_after(&self, bus: &'static str, took: Duration) {
        self.publishing
            .with_label_values(&[bus])
            .observe(took.as_secs_f64());
    }

    /// An opener's wait ended: with the word that its circuit is served, or without.
    pub(crate) fn waited(&self, served: Option<Duration>) {
        let outcome = match served {
            Some(took) => {
                self.acknowledged.observe(took.as_secs_f64());
                "served"
            }
            None => "given_up",
        };
        self.acknowledgements.with_label_values(&[outcome]).inc();
    }

    /// The store did something.
    pub(crate) fn stored(&self, doing: &'static str, took: Duration, done: bool) {
        self.store
            .with_label_values(&[doing])
            .observe(took.as_secs_f64());
        if !done {
            self.store_failures.with_label_values(&[doing]).inc();
        }
    }

    /// Sets what is read anew for every scrape.
    pub(crate) fn set(&self, workers: &[Worker], counted: &store::Figures, picture: &Picture) {
        for mode in MODES {
            for protocol in PROTOCOLS {
                let of_kind = |line: &&store::CircuitCount| {
                    line.app_mode == mode && line.protocol.carried() == protocol
                };
                let count = counted
                    .circuits
                    .iter()
                    .filter(of_kind)
                    .map(|line| line.count)
                    .sum();
                let labels = [word(mode), protocol.as_str()];
                self.circuits.with_label_values(&labels).set(whole(count));
            }
        }
        // Workers that are gone must not stay as labels.
        self.used.reset();
        self.free.reset();
        for worker in workers {
            let name = [worker.authority.as_str()];
            let used = i64::from(worker.occupied_slots);
            self.used.with_label_values(&name).set(used);
            if worker.frontend_mode == FrontendMode::Port {
                let free = (i64::from(worker.available_slots) - used).max(0);
                self.free.with_label_values(&name).set(free);
            }
        }
        self.routes.set(whole(picture.tally(counted).1));
        self.outbox.set(whole(counted.outbox));
    }
}

fn word(mode: AppMode) -> &'static str {
    match mode {
        AppMode::Interactive => "interactive",
        AppMode::Inference => "inference",
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
