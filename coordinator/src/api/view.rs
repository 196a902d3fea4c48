//! Workers as answers show them.

use std::collections::HashMap;

use patchbay_common::circuit::{Circuit, FrontendMode, Protocol};
use patchbay_common::id::CircuitId;
use patchbay_common::worker::{SlotView, Worker, WorkerView};

use crate::store::{HeldSlot, HeldSlots};

/// Base URL of a worker's API as clients reach it, without the port its scheme implies.
pub(crate) fn endpoint(worker: &Worker) -> String {
    let tls = worker.tls_listen || worker.tls_advertised;
    let (scheme, implied) = if tls { ("https", 443) } else { ("http", 80) };
    let host = host(worker);
    if worker.api_port == implied {
        format!("{scheme}://{host}")
    } else {
        format!("{scheme}://{host}:{}", worker.api_port)
    }
}

/// Where a circuit's users find it, without a trailing slash: on the worker's API host in port
/// mode, below its domain in wildcard mode.
pub(crate) fn circuit_url(circuit: &Circuit, worker: &Worker) -> String {
    let tls = worker.uses_tls();
    let scheme = match (circuit.protocol, tls) {
        (Protocol::Tcp, true) => "tls",
        (Protocol::Tcp, false) => "tcp",
        (Protocol::Grpc, _) => "grpc",
        (_, true) => "https",
        (_, false) => "http",
    };
    let (host, port) = match circuit.frontend_mode {
        FrontendMode::Port => (host(worker), circuit.port),
        FrontendMode::Wildcard => {
            let name = circuit.subdomain.as_deref().unwrap_or_default();
            let domain = worker.wildcard_domain.as_deref().unwrap_or_default();
            let implied = match scheme {
                "https" => Some(443),
                "http" => Some(80),
                _ => None,
            };
            let port = worker.wildcard_traffic_port;
            (format!("{name}{domain}"), port.filter(|_| port != implied))
        }
    };
    match port {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

/// The worker's host in a URL: an IPv6 address stands in brackets.
fn host(worker: &Worker) -> String {
    match worker.hostname.as_str() {
        host if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
        host => host.to_owned(),
    }
}

/// A worker with all its slots.
pub(crate) fn full(worker: Worker, held: HeldSlots) -> WorkerView {
    let count = held.slots.len();
    let slots = slots(&worker, held.slots);
    // What is shown beside the circuits agrees with them, whatever the counter says.
    let worker = Worker {
        occupied_slots: i32::try_from(count).unwrap_or(i32::MAX),
        ..worker
    };
    with_slots(worker, slots, held.generation)
}

/// A worker without its slots: the answer to a heartbeat of a worker of ours, which looks at the
/// generation only and may hold thousands of circuits.
pub(crate) fn brief(worker: Worker, generation: u64) -> WorkerView {
    with_slots(worker, Vec::new(), generation)
}

fn with_slots(worker: Worker, slots: Vec<SlotView>, generation: u64) -> WorkerView {
    WorkerView {
        authority: worker.authority,
        frontend_mode: worker.frontend_mode,
        protocol: worker.protocol,
        hostname: worker.hostname,
        tls_listen: worker.tls_listen,
        tls_advertised: worker.tls_advertised,
        api_port: worker.api_port,
        port_range: worker.port_range,
        wildcard_domain: worker.wildcard_domain,
        wildcard_traffic_port: worker.wildcard_traffic_port,
        filtered_apps_only: worker.filtered_apps_only,
        traefik_last_used_marker_path: worker.traefik_last_used_marker_path,
        accepted_traffics: worker.accepted_traffics,
        id: worker.id,
        created_at: worker.created_at,
        updated_at: worker.updated_at,
        available_slots: worker.available_slots,
        occupied_slots: worker.occupied_slots,
        nodes: worker.nodes,
        slots,
        generation: Some(generation),
        services_generation: None,
    }
}

/// In port mode every port of the range, in wildcard mode the subdomains in use
/// (contract/rest-coordinator.md §7).
pub(crate) fn slots(worker: &Worker, held: Vec<HeldSlot>) -> Vec<SlotView> {
    match (worker.frontend_mode, worker.port_range) {
        (FrontendMode::Port, Some((first, last))) => {
            let holders: HashMap<u16, CircuitId> = held
                .iter()
                .filter_map(|slot| Some((slot.port?, slot.circuit)))
                .collect();
            (first..=last)
                .map(|port| SlotView {
                    frontend_mode: FrontendMode::Port,
                    in_use: holders.contains_key(&port),
                    port: Some(port),
                    subdomain: None,
                    circuit_id: holders.get(&port).copied(),
                })
                .collect()
        }
        (FrontendMode::Port, None) => Vec::new(),
        (FrontendMode::Wildcard, _) => held
            .into_iter()
            .map(|slot| SlotView {
                frontend_mode: FrontendMode::Wildcard,
                in_use: true,
                port: None,
                subdomain: slot.subdomain,
                circuit_id: Some(slot.circuit),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::test_vectors::vectors;

    fn circuit(claims: &Value) -> Circuit {
        let mut claims = claims.clone();
        for key in ["created_at", "updated_at"] {
            claims[key] = "2026-11-20T15:41:04Z".into();
        }
        serde_json::from_value(claims).unwrap()
    }

    #[test]
    fn circuits_have_the_urls_of_the_vectors() {
        let vectors = vectors();
        let claims = &vectors["endpoint_jwt"]["claims_in_order"];
        for case in vectors["endpoint_url"]["cases"].as_array().unwrap() {
            let mut circuit = circuit(claims);
            circuit.protocol = serde_json::from_value(case["protocol"].clone()).unwrap();
            circuit.frontend_mode = serde_json::from_value(case["mode"].clone()).unwrap();
            circuit.subdomain = case["subdomain"].as_str().map(str::to_owned);
            let port = |key: &str| case[key].as_u64().map(|port| u16::try_from(port).unwrap());
            circuit.port = port("port");
            let worker = Worker {
                id: circuit.worker,
                authority: "w".into(),
                frontend_mode: circuit.frontend_mode,
                protocol: circuit.protocol,
                hostname: case["hostname"].as_str().unwrap_or("h").into(),
                tls_listen: case["tls"].as_bool().unwrap(),
                tls_advertised: false,
                api_port: 10_201,
                port_range: None,
                wildcard_domain: case["wildcard_domain"].as_str().map(str::to_owned),
                wildcard_traffic_port: port("wildcard_traffic_port"),
                filtered_apps_only: false,
                traefik_last_used_marker_path: None,
                accepted_traffics: Vec::new(),
                created_at: circuit.created_at,
                updated_at: circuit.created_at,
                available_slots: -1,
                occupied_slots: 0,
                nodes: 1,
                status: patchbay_common::worker::WorkerStatus::Alive,
            };
            assert_eq!(circuit_url(&circuit, &worker), case["url"], "{case}");
        }
    }
}
