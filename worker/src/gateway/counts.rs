//! What is counted for each route. The counts belong to the route: they outlive changes to it, and
//! go when it goes, so that their number is bounded by the configuration.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Leg;
use crate::upstream::RouteState;

/// Bounds of the buckets, in seconds.
const BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0];
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// What a chain decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Somebody it knows may pass.
    Admitted,
    /// No credential, or not a good one.
    Unauthenticated,
    /// A permission, the address or the origin.
    Forbidden,
    /// Too many requests.
    Limited,
    /// Credentials could not be checked.
    Unchecked,
}

const DECISIONS: [&str; 5] = [
    "admitted",
    "unauthenticated",
    "forbidden",
    "limited",
    "unchecked",
];

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The status sent, 0 if none was.
    pub status: u16,
    /// The whole time.
    pub duration: Duration,
    /// Body bytes from the client.
    pub received: u64,
    /// Body bytes to the client.
    pub sent: u64,
    /// What the chain decided.
    pub decision: Option<Decision>,
    /// How it went at the instance.
    pub leg: Leg,
    /// Instances tried before.
    pub retries: usize,
}

/// Counts of one route.
#[derive(Debug, Default)]
pub struct Counts {
    by_class: [AtomicU64; CLASSES.len()],
    by_duration: Times,
    by_decision: [AtomicU64; DECISIONS.len()],
    /// Answers of instances.
    upstream_by_class: [AtomicU64; CLASSES.len()],
    upstream_by_duration: Times,
    /// Requests that went over a new connection, and over one that had carried others.
    by_connection: [AtomicU64; 2],
    retries: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// How long something took.
#[derive(Debug, Default)]
struct Times {
    /// The last one is for what is slower than every bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Times {
    fn add(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().take_while(|bound| seconds > **bound).count();
        count(&self.buckets, bucket);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Relaxed);
    }
}

impl Counts {
    /// A request has ended.
    pub fn ended(&self, ended: &Ended) {
        count(&self.by_class, class(ended.status));
        self.by_duration.add(ended.duration);
        self.received.fetch_add(ended.received, Relaxed);
        self.sent.fetch_add(ended.sent, Relaxed);
        self.retries.fetch_add(ended.retries as u64, Relaxed);
        if let Some(decision) = ended.decision {
            count(&self.by_decision, decision as usize);
        }
        if let (Some(status), Some(latency)) = (ended.leg.status, ended.leg.latency) {
            count(&self.upstream_by_class, class(status));
            self.upstream_by_duration.add(latency);
            count(&self.by_connection, usize::from(ended.leg.reused));
        }
    }
}

fn class(status: u16) -> usize {
    let class = usize::from(status / 100);
    if class > 5 { 0 } else { class }
}

fn count(counts: &[AtomicU64], index: usize) {
    if let Some(count) = counts.get(index) {
        count.fetch_add(1, Relaxed);
    }
}

/// Appends the counts of these routes (name, service, counts) to an exposition.
pub fn append<'a>(
    text: &mut String,
    routes: impl Iterator<Item = (&'a str, &'a str, &'a Counts)> + Clone,
) {
    let mut out = Out(text);
    let help = "Requests to the gateway, by route, service and class of status.";
    out.counter("requests_total", help, routes.clone(), |counts| {
        labelled("class", CLASSES, &counts.by_class)
    });
    let name = "request_duration_seconds";
    out.times(name, "How long they took.", routes.clone(), |counts| {
        &counts.by_duration
    });
    let help = "Body bytes, from clients (in) and to them (out).";
    out.counter("bytes_total", help, routes.clone(), |counts| {
        let ways = [&counts.received, &counts.sent].map(|way| way.load(Relaxed));
        let ways = ["in", "out"].into_iter().zip(ways);
        ways.map(|(way, bytes)| (format!(",direction=\"{way}\""), bytes))
            .collect()
    });
    let help = "What middleware decided: who was let in, and who was not and why.";
    out.counter("decisions_total", help, routes.clone(), |counts| {
        labelled("decision", DECISIONS, &counts.by_decision)
    });
    let help = "Answers of instances, by class of status.";
    out.counter("upstream_responses_total", help, routes.clone(), |counts| {
        labelled("class", CLASSES, &counts.upstream_by_class)
    });
    let (name, help) = ("upstream_duration_seconds", "Until instances answered.");
    out.times(name, help, routes.clone(), |counts| {
        &counts.upstream_by_duration
    });
    let help = "Answers over new connections to instances, and over pooled ones.";
    out.counter("connections_total", help, routes.clone(), |counts| {
        labelled("state", ["new", "reused"], &counts.by_connection)
    });
    let help = "Instances tried in vain before another answered.";
    out.counter("retries_total", help, routes, |counts| {
        vec![(String::new(), counts.retries.load(Relaxed))]
    });
}

/// Those that are not zero, each with its label.
fn labelled<const N: usize>(
    label: &str,
    words: [&str; N],
    counts: &[AtomicU64; N],
) -> Vec<(String, u64)> {
    let all = words.iter().zip(counts);
    all.map(|(word, count)| (format!(",{label}=\"{word}\""), count.load(Relaxed)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Appends how instances stand (service, state).
pub fn append_instances<'a>(
    text: &mut String,
    instances: impl Iterator<Item = (&'a str, RouteState)>,
) {
    let mut outstanding = String::new();
    let mut out = Out(text);
    out.head(
        "patchbay_gateway_instance_up",
        "gauge",
        "Whether each instance is in service.",
    );
    for (service, state) in instances {
        let labels = format!(
            "{{service=\"{}\",instance=\"{}\"}}",
            escaped(service),
            escaped(&state.address)
        );
        let up = u8::from(state.healthy);
        let _ = writeln!(out.0, "patchbay_gateway_instance_up{labels} {up}");
        let _ = writeln!(
            outstanding,
            "patchbay_gateway_instance_outstanding{labels} {}",
            state.outstanding
        );
    }
    out.head(
        "patchbay_gateway_instance_outstanding",
        "gauge",
        "Requests and streams under way at each instance.",
    );
    out.0.push_str(&outstanding);
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

    fn counter<'a>(
        &mut self,
        name: &str,
        help: &str,
        routes: impl Iterator<Item = (&'a str, &'a str, &'a Counts)>,
        read: impl Fn(&Counts) -> Vec<(String, u64)>,
    ) {
        self.head(&format!("patchbay_gateway_{name}"), "counter", help);
        for (route, service, counts) in routes {
            for (labels, count) in read(counts) {
                self.sample(name, route, service, &labels, count as f64);
            }
        }
    }

    fn times<'a>(
        &mut self,
        name: &str,
        help: &str,
        routes: impl Iterator<Item = (&'a str, &'a str, &'a Counts)>,
        read: impl Fn(&'a Counts) -> &'a Times,
    ) {
        self.head(&format!("patchbay_gateway_{name}"), "histogram", help);
        for (route, service, counts) in routes {
            self.histogram(name, route, service, read(counts));
        }
    }

    fn sample(&mut self, name: &str, route: &str, service: &str, more: &str, value: f64) {
        // As the exposition format wants label values: `\`, `"` and line feeds escaped.
        let (route, service) = (escaped(route), escaped(service));
        let _ = writeln!(
            self.0,
            "patchbay_gateway_{name}{{route=\"{route}\",service=\"{service}\"{more}}} {value}"
        );
    }

    fn histogram(&mut self, name: &str, route: &str, service: &str, times: &Times) {
        let mut sum = 0;
        let bounds = BOUNDS.iter().map(ToString::to_string);
        let bounds = bounds.chain(std::iter::once("+Inf".to_owned()));
        for (bound, count) in bounds.zip(&times.buckets) {
            sum += count.load(Relaxed);
            let bound = format!(",le=\"{bound}\"");
            let name = format!("{name}_bucket");
            self.sample(&name, route, service, &bound, sum as f64);
        }
        self.sample(&format!("{name}_count"), route, service, "", sum as f64);
        let seconds = times.micros.load(Relaxed) as f64 / 1e6;
        self.sample(&format!("{name}_sum"), route, service, "", seconds);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
