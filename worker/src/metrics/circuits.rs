//! Figures of the circuits that are open and of their routes, read when somebody asks: a circuit
//! that closes takes its series with it, so that labels do not pile up.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::table::{BOUNDS, Distribution, LiveCircuit, Table, TokenCounts};

/// Circuits that have series of their own; the sums over all have no bound.
const MOST: usize = 10_000;

/// Writes the figures behind `text`.
/// A series: its name, what it counts, and where a circuit keeps the count.
type Family = (&'static str, &'static str, fn(&LiveCircuit) -> u64);

pub(super) fn append(text: &mut String, table: &Table) {
    let circuits = table.all();
    routes(text, &circuits);
    faults(text, table);
    let mut used: Vec<&Arc<LiveCircuit>> = circuits
        .iter()
        .filter(|live| live.tally.requests() > 0)
        .collect();
    // The same ones at every scrape, where there are too many.
    used.sort_unstable_by_key(|live| live.circuit.created_at);
    used.truncate(MOST);
    let families: [Family; 4] = [
        (
            "requests_total",
            "Requests over circuits that are open.",
            |live| live.tally.requests(),
        ),
        (
            "errors_total",
            "Those answered with a status from 500 on.",
            |live| live.tally.errors(),
        ),
        (
            "received_bytes_total",
            "Bytes from their clients.",
            |live| live.tally.received(),
        ),
        ("sent_bytes_total", "Bytes to their clients.", |live| {
            live.tally.sent()
        }),
    ];
    for (name, help, read) in families {
        head(text, &format!("patchbay_circuit_{name}"), help, "counter");
        for live in &used {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "patchbay_circuit_{name}{{{}}} {}",
                labels(live),
                read(live)
            );
        }
    }
    tokens(text, &used);
}

/// What models have said, of circuits that lead to one.
fn tokens(text: &mut String, used: &[&Arc<LiveCircuit>]) {
    let counts: Vec<(String, TokenCounts)> = used
        .iter()
        .filter_map(|live| Some((labels(live), live.tally.token_counts()?)))
        .collect();
    type Count = (&'static str, &'static str, fn(&TokenCounts) -> u64);
    let families: [Count; 2] = [
        (
            "token_streams_total",
            "Answers of models that streamed.",
            |c| c.streams,
        ),
        ("tokens_total", "Tokens in them.", |c| c.tokens),
    ];
    for (name, help, read) in families {
        head(text, &format!("patchbay_circuit_{name}"), help, "counter");
        for (labels, counts) in &counts {
            let _ = writeln!(text, "patchbay_circuit_{name}{{{labels}}} {}", read(counts));
        }
    }
    type Spread = (
        &'static str,
        &'static str,
        fn(&TokenCounts) -> &Distribution,
    );
    let families: [Spread; 2] = [
        (
            "time_to_first_token_seconds",
            "From a request to its first token.",
            |c| &c.first,
        ),
        (
            "inter_token_gap_seconds",
            "From one token to the next.",
            |c| &c.gap,
        ),
    ];
    for (name, help, read) in families {
        let name = format!("patchbay_circuit_{name}");
        head(text, &name, help, "histogram");
        for (labels, counts) in &counts {
            let times = read(counts);
            for (bound, count) in BOUNDS.iter().zip(times.up_to) {
                let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let (count, sum) = (times.count, times.sum);
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
            let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}");
            let _ = writeln!(text, "{name}_count{{{labels}}} {count}");
        }
    }
}

/// The labels of a circuit's series.
fn labels(live: &LiveCircuit) -> String {
    let app = live.circuit.app.as_deref().unwrap_or_default();
    let endpoint = live.circuit.endpoint_id.map(|id| id.to_string());
    format!(
        "app=\"{}\",circuit=\"{}\",endpoint=\"{}\"",
        escape(app),
        live.id_text,
        endpoint.unwrap_or_default(),
    )
}

fn routes(text: &mut String, circuits: &[Arc<LiveCircuit>]) {
    let (mut up, mut down, mut outstanding, mut waiting) = (0u64, 0u64, 0u64, 0u64);
    for live in circuits {
        waiting += live.upstreams.waiting() as u64;
        for upstream in live.upstreams.all() {
            let count = if upstream.health.is_up() {
                &mut up
            } else {
                &mut down
            };
            *count += 1;
            outstanding += upstream.outstanding() as u64;
        }
    }
    head(
        text,
        "patchbay_routes",
        "Routes, by whether they are in service.",
        "gauge",
    );
    let _ = writeln!(text, "patchbay_routes{{state=\"up\"}} {up}");
    let _ = writeln!(text, "patchbay_routes{{state=\"down\"}} {down}");
    let name = "patchbay_upstream_outstanding";
    head(
        text,
        name,
        "Requests and streams under way at apps.",
        "gauge",
    );
    let _ = writeln!(text, "{name} {outstanding}");
    let name = "patchbay_upstream_queue";
    head(
        text,
        name,
        "Requests that wait for a route with room.",
        "gauge",
    );
    let _ = writeln!(text, "{name} {waiting}");
}

fn faults(text: &mut String, table: &Table) {
    let name = "patchbay_upstream_faults_total";
    head(
        text,
        name,
        "Faults of apps that traffic and checks met, retried ones included.",
        "counter",
    );
    for (kind, count) in table.prober().faults() {
        let _ = writeln!(text, "{name}{{kind=\"{kind}\"}} {count}");
    }
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// As label values are escaped.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::trial::circuit;
    use patchbay_common::event::Change;

    #[test]
    fn a_circuit_that_closes_takes_its_series_with_it() {
        let table = Table::new();
        let mut open = circuit(10_001);
        open.app = Some("say \"hi\"".into());
        table.apply(&Change::Created(vec![open.clone()]));
        let live = table.by_id(open.id).unwrap();
        live.tally.add(200, 5, 7);
        live.tally.add(502, 0, 1);
        let text = |table: &Table| {
            let mut text = String::new();
            append(&mut text, table);
            text
        };
        let before = text(&table);
        let line = |name: &str, count: u32| {
            format!(
                "patchbay_circuit_{name}{{app=\"say \\\"hi\\\"\",circuit=\"{}\",endpoint=\"\"}} {count}\n",
                open.id
            )
        };
        for (name, count) in [
            ("requests_total", 2),
            ("errors_total", 1),
            ("received_bytes_total", 5),
            ("sent_bytes_total", 8),
        ] {
            assert!(before.contains(&line(name, count)), "{name}: {before}");
        }
        // What it has counted outlives a change of it.
        let mut changed = open.clone();
        changed.open_to_public = !changed.open_to_public;
        table.apply(&Change::Created(vec![changed]));
        assert!(text(&table).contains(&line("requests_total", 2)));
        table.apply(&Change::Removed(vec![open.clone()]));
        assert!(!text(&table).contains(&open.id.to_string()));
    }
}
