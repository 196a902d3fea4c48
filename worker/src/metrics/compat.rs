//! The same counts under the names the incumbent's dashboards know (contract/metrics.md §2), taken
//! when the text is asked for, so that they cost requests nothing. The label `remote`, which was
//! the client's address, stays empty unless the operator asks for it. The incumbent's body size histograms never held anything
//! and are left out; its duration histograms are given as sums and counts.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use super::families::{Families, Kind};
use super::remotes::Remotes;
use crate::sync::Status;
use crate::table::Table;

/// Appends the compatible families to the exposition.
pub(super) fn append(
    text: &mut String,
    families: &Families,
    remotes: Option<&Remotes>,
    table: &Table,
    status: &Status,
) {
    let requests = families.all_requests();
    let answered = families.first_byte.get_sample_count();
    let mut out = Out(text);
    let all = |count| vec![(String::new(), count)];
    let clients = remotes.map_or_else(|| all(requests), Remotes::by_client);
    let kernels = remotes.map_or_else(|| all(answered), Remotes::by_kernel);
    out.remotes("appproxy_requests_received_http_total", &clients);
    out.remotes("appproxy_responses_sent_http_total", &clients);
    out.remotes("appproxy_upstream_request_sent_http_total", &kernels);
    out.remotes("appproxy_upstream_response_received_http_total", &kernels);
    out.histogram(
        "appproxy_proxy_request_iteration_duration_http",
        families.duration.get_sample_sum(),
        families.duration.get_sample_count(),
    );
    out.streams(families, Kind::WebSocket, "ws");
    out.streams(families, Kind::Tcp, "tcp");
    out.one(
        "appproxy_circuits_created_total",
        "counter",
        "protocol=\"\"",
        status.opened,
    );
    out.alive(table);
    out.one(
        "backendai_memory_used_rss",
        "gauge",
        "",
        families.gauges.resident.get(),
    );
}

const REMOTE: &str = "remote=\"\"";

struct Out<'a>(&'a mut String);

impl Out<'_> {
    fn head(&mut self, name: &str, kind: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.0,
            "# HELP {name} Kept for dashboards of the Backend.AI App Proxy.\n# TYPE {name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }

    fn one(&mut self, name: &str, kind: &str, labels: &str, value: impl Display) {
        self.head(name, kind);
        self.sample(name, labels, value);
    }

    fn remotes(&mut self, name: &str, counts: &[(String, u64)]) {
        self.head(name, "counter");
        for (remote, count) in counts {
            self.sample(name, &format!("remote=\"{remote}\""), count);
        }
    }

    fn histogram(&mut self, name: &str, sum: f64, count: u64) {
        self.head(name, "histogram");
        let bucket = format!("{REMOTE},le=\"+Inf\"");
        self.sample(&format!("{name}_bucket"), &bucket, count);
        self.sample(&format!("{name}_sum"), REMOTE, sum);
        self.sample(&format!("{name}_count"), REMOTE, count);
    }

    fn streams(&mut self, families: &Families, kind: Kind, suffix: &str) {
        let traffic = families.stream(kind);
        let (opened, closed) = (traffic.opened.get(), traffic.closed.get());
        let name = |stem: &str| format!("appproxy_{stem}_{suffix}");
        let total = |stem: &str| format!("appproxy_{stem}_{suffix}_total");
        self.one(&total("connections_established"), "counter", "", opened);
        self.one(&total("connections_closed"), "counter", "", closed);
        let pending = opened.saturating_sub(closed);
        self.one(&name("pending_connections"), "gauge", "", pending);
        let bytes = traffic.received.get() + traffic.sent.get();
        self.one(
            &total("connection_processed_traffics"),
            "counter",
            "",
            bytes,
        );
    }

    fn alive(&mut self, table: &Table) {
        let mut by_protocol: BTreeMap<&str, usize> = BTreeMap::new();
        for live in table.all() {
            *by_protocol
                .entry(live.circuit.protocol.label())
                .or_default() += 1;
        }
        let name = "appproxy_alive_circuits";
        self.one(name, "gauge", "protocol=\"\"", 0);
        for (protocol, count) in by_protocol {
            self.sample(name, &format!("protocol=\"{protocol}\""), count);
        }
    }
}
