//! What is counted for each route. The counts belong to the route: they outlive changes to it, and
//! go when it goes, so that their number is bounded by the configuration.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Bounds of the buckets, in seconds.
const BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0];
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counts of one route.
#[derive(Debug, Default)]
pub struct Counts {
    by_class: [AtomicU64; CLASSES.len()],
    /// The last one is for what is slower than every bound.
    by_duration: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Counts {
    /// A request has ended with this status (0 if none was sent).
    pub fn ended(&self, status: u16, duration: Duration, received: u64, sent: u64) {
        let class = usize::from(status / 100);
        if let Some(count) = self.by_class.get(if class > 5 { 0 } else { class }) {
            count.fetch_add(1, Relaxed);
        }
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().take_while(|bound| seconds > **bound).count();
        if let Some(count) = self.by_duration.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Relaxed);
        self.received.fetch_add(received, Relaxed);
        self.sent.fetch_add(sent, Relaxed);
    }
}

/// Appends the counts of these routes (name, service, counts) to an exposition.
pub fn append<'a>(
    text: &mut String,
    routes: impl Iterator<Item = (&'a str, &'a str, &'a Counts)> + Clone,
) {
    let mut out = Out(text);
    out.head(
        "patchbay_gateway_requests_total",
        "counter",
        "Requests to the gateway, by route, service and class of status.",
    );
    for (route, service, counts) in routes.clone() {
        for (class, count) in CLASSES.iter().zip(&counts.by_class) {
            let count = count.load(Relaxed);
            if count > 0 {
                let class = format!(",class=\"{class}\"");
                out.sample("requests_total", route, service, &class, count as f64);
            }
        }
    }
    out.head(
        "patchbay_gateway_request_duration_seconds",
        "histogram",
        "How long they took.",
    );
    for (route, service, counts) in routes.clone() {
        out.histogram(route, service, counts);
    }
    let help = "Body bytes, from clients (in) and to them (out).";
    out.head("patchbay_gateway_bytes_total", "counter", help);
    for (route, service, counts) in routes {
        for (way, count) in [("in", &counts.received), ("out", &counts.sent)] {
            let way = format!(",direction=\"{way}\"");
            let count = count.load(Relaxed) as f64;
            out.sample("bytes_total", route, service, &way, count);
        }
    }
}

/// Appends the state of breakers (service, instance, state).
pub fn append_breakers<'a>(
    text: &mut String,
    breakers: impl Iterator<Item = (&'a str, &'a str, &'static str)>,
) {
    let help = "1 for the state each instance's breaker is in.";
    let mut out = Out(text);
    out.head("patchbay_gateway_breaker", "gauge", help);
    for (service, instance, state) in breakers {
        let (service, instance) = (escaped(service), escaped(instance));
        let _ = writeln!(
            out.0,
            "patchbay_gateway_breaker{{service=\"{service}\",instance=\"{instance}\",state=\"{state}\"}} 1"
        );
    }
}

/// Appends how many services and routes were told of and are not served as they were told.
pub fn append_complaints(text: &mut String, count: usize) {
    let help = "Services and routes told of that gave way or cannot be; the log names them.";
    let mut out = Out(text);
    out.head("patchbay_gateway_conflicts", "gauge", help);
    let _ = writeln!(out.0, "patchbay_gateway_conflicts {count}");
}

struct Out<'a>(&'a mut String);

impl Out<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, route: &str, service: &str, more: &str, value: f64) {
        // As the exposition format wants label values: `\`, `"` and line feeds escaped.
        let (route, service) = (escaped(route), escaped(service));
        let _ = writeln!(
            self.0,
            "patchbay_gateway_{name}{{route=\"{route}\",service=\"{service}\"{more}}} {value}"
        );
    }

    fn histogram(&mut self, route: &str, service: &str, counts: &Counts) {
        let mut sum = 0;
        let bounds = BOUNDS.iter().map(ToString::to_string);
        let bounds = bounds.chain(std::iter::once("+Inf".to_owned()));
        for (bound, count) in bounds.zip(&counts.by_duration) {
            sum += count.load(Relaxed);
            let bound = format!(",le=\"{bound}\"");
            let name = "request_duration_seconds_bucket";
            self.sample(name, route, service, &bound, sum as f64);
        }
        let name = "request_duration_seconds_count";
        self.sample(name, route, service, "", sum as f64);
        let seconds = counts.micros.load(Relaxed) as f64 / 1e6;
        let name = "request_duration_seconds_sum";
        self.sample(name, route, service, "", seconds);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
