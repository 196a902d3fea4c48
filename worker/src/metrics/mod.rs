//! What the worker counts. `proxy`, `frontend` and `admin` report facts through plain methods over
//! handles fetched once; gauges of other rooms are read when somebody asks for the text. Labels
//! come from fixed lists: no client or path ever becomes one, and a circuit only for as long as it
//! is open (`circuits`). `compat` repeats the counts
//! under the incumbent's names.

mod circuits;
mod compat;
mod families;
mod remotes;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use patchbay_common::telemetry::metrics;
use patchbay_listen::tls;

use crate::error::Refusal;
use crate::frontend::ConnectionGate;
use crate::gateway::Gateway;
use crate::lane::Reason;
use crate::sync::{Bus, Link};
use crate::table::Table;
use families::{Class, Families, Kind};
use remotes::Remotes;

/// What is known of a finished request.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// Status sent; 0 if none was, 499 if the client went away first.
    pub status: u16,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// The whole time.
    pub duration: Duration,
    /// Time to the head of the app's answer.
    pub first_byte: Option<Duration>,
    /// Why it was not carried.
    pub refusal: Option<&'a Refusal>,
    /// The client broke off.
    pub client_gone: bool,
    /// It became a stream (a WebSocket).
    pub spliced: bool,
    /// Who sent it.
    pub client: Option<IpAddr>,
    /// `host:port` of the app that answered.
    pub kernel: Option<&'a str>,
}

/// What carries a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// `lane`.
    Lane,
    /// `proxy`.
    Proxy,
}

/// The worker's counts.
#[derive(Debug)]
pub struct Metrics {
    families: Families,
    table: Arc<Table>,
    link: Arc<Link>,
    gate: Arc<ConnectionGate>,
    tls: Option<Arc<tls::Live>>,
    gateway: Option<Arc<Gateway>>,
    remotes: Option<Remotes>,
}

/// A stream that is counted as open until this is dropped.
#[derive(Debug)]
pub struct OpenStream<'a> {
    families: &'a Families,
    kind: Kind,
}

impl OpenStream<'_> {
    /// Bytes the stream has carried, from and to the client.
    pub fn carried(&self, received: u64, sent: u64) {
        self.families.carried(self.kind, received, sent);
    }
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.families.stream(self.kind).closed.inc();
    }
}

/// A stream of events that is counted as open until this is dropped.
#[derive(Debug)]
pub struct OpenEvents(Arc<Metrics>);

impl Drop for OpenEvents {
    fn drop(&mut self) {
        self.0.families.stream(Kind::Events).closed.inc();
    }
}

impl Metrics {
    /// All counts at zero.
    ///
    /// # Errors
    /// If two families of ours have one name.
    pub fn new(
        table: &Arc<Table>,
        link: &Arc<Link>,
        gate: &Arc<ConnectionGate>,
        tls: Option<Arc<tls::Live>>,
    ) -> prometheus::Result<Self> {
        Ok(Self {
            families: Families::new()?,
            table: Arc::clone(table),
            link: Arc::clone(link),
            gate: Arc::clone(gate),
            tls,
            gateway: None,
            remotes: None,
        })
    }

    /// Counting by the other end as well, if that is asked for.
    #[must_use]
    pub fn by_remote(mut self, asked: bool) -> Self {
        self.remotes = asked.then(Remotes::default);
        self
    }

    /// With what the gateway counts by route.
    #[must_use]
    pub fn with_gateway(mut self, gateway: Option<Arc<Gateway>>) -> Self {
        self.gateway = gateway;
        self
    }

    /// A request over a circuit has ended.
    pub fn request_finished(&self, facts: &RequestFacts<'_>) {
        let families = &self.families;
        families.requests(Class::of(facts)).inc();
        let kind = if facts.spliced {
            Kind::WebSocket
        } else {
            Kind::Http
        };
        families.carried(kind, facts.bytes_in, facts.bytes_out);
        if !facts.spliced {
            families.duration.observe(facts.duration.as_secs_f64());
        }
        if let Some(first_byte) = facts.first_byte {
            families.first_byte.observe(first_byte.as_secs_f64());
        }
        if let Some(refusal) = facts.refusal {
            families.refused(refusal);
        }
        if let Some(remotes) = &self.remotes {
            remotes.note(facts.client, facts.kernel);
        }
    }

    /// An answer is a stream of events.
    pub fn events_opened(metrics: &Arc<Self>) -> OpenEvents {
        metrics.families.stream(Kind::Events).opened.inc();
        OpenEvents(Arc::clone(metrics))
    }

    /// A request is carried by this engine.
    pub fn carried_by(&self, engine: Engine) {
        self.families.engine(engine).inc();
    }

    /// The lane has handed a request over.
    pub fn handed_over(&self, reason: Reason) {
        self.families.hand_over(reason).inc();
    }

    /// A WebSocket was opened; the bytes it carries are told by [`Metrics::request_finished`].
    pub fn websocket_opened(&self) -> OpenStream<'_> {
        self.opened(Kind::WebSocket)
    }

    /// A TCP connection was opened.
    pub fn tcp_opened(&self) -> OpenStream<'_> {
        self.opened(Kind::Tcp)
    }

    /// A TCP connection was not carried.
    pub fn tcp_refused(&self, refusal: &Refusal) {
        self.families.refused(refusal);
    }

    /// A request to the worker's own API has ended. `endpoint` is a route's template, `method`
    /// one that the route offers, `error` the incumbent's code of what went wrong.
    pub fn api_finished(
        &self,
        (method, endpoint): (&str, &str),
        status: u16,
        error: Option<&str>,
        duration: Duration,
    ) {
        self.families.api(method, endpoint, status, error, duration);
    }

    /// How many circuits the table holds.
    pub fn circuits(&self) -> usize {
        self.table.len()
    }

    fn opened(&self, kind: Kind) -> OpenStream<'_> {
        self.families.stream(kind).opened.inc();
        OpenStream {
            families: &self.families,
            kind,
        }
    }

    /// The exposition.
    pub fn render(&self) -> String {
        self.read_gauges();
        let mut text = metrics::render(&self.families.registry);
        if let Some(gateway) = &self.gateway {
            gateway.append_counts(&mut text);
        }
        circuits::append(&mut text, &self.table);
        let remotes = self.remotes.as_ref();
        compat::append(
            &mut text,
            &self.families,
            remotes,
            &self.table,
            &self.link.status(),
        );
        text
    }

    fn read_gauges(&self) {
        let (gauges, status) = (&self.families.gauges, self.link.status());
        let set = |gauge: &prometheus::IntGauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&gauges.connections, self.gate.open() as u64);
        set(&gauges.circuits, self.table.len() as u64);
        set(&gauges.activity_queue, self.link.activity().queued() as u64);
        set(&gauges.generation, status.generation.unwrap_or(0));
        set(&gauges.lag, status.lag);
        set(&gauges.fetches, status.fetches);
        let age = status.last_fetch.map(|at| at.elapsed().as_secs_f64());
        gauges.fetch_age.set(age.unwrap_or(f64::NAN));
        for bus in [Bus::Redis, Bus::Stream, Bus::None] {
            let used = i64::from(bus == status.bus());
            gauges.bus.with_label_values(&[bus.as_str()]).set(used);
        }
        let up = |healthy: bool| i64::from(healthy);
        gauges
            .coordinator_up
            .set(up(status.coordinator_reach.healthy));
        gauges.redis_up.set(up(status.redis_reach.healthy));
        gauges.ready.set(up(status.ready));
        set(&gauges.resident, resident_bytes());
        // Of certificates that are no longer in use nothing is said.
        gauges.certificates.reset();
        for expiry in self.tls.iter().flat_map(|tls| tls.expiries()) {
            let gauge = gauges
                .certificates
                .with_label_values(&[&*expiry.certificate]);
            gauge.set(expiry.not_after);
        }
    }
}

/// Resident memory of this process; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/status") else {
        return 0;
    };
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1_024
}
