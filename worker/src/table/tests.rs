use std::sync::Arc;

use patchbay_common::circuit::Circuit;
use patchbay_common::event::Change;
use patchbay_common::id::{CircuitId, SessionId};
use serde_json::json;

use super::Table;

fn circuit(port: u16) -> Circuit {
    serde_json::from_value(json!({
        "id": CircuitId::random(), "app": "jupyter", "protocol": "http",
        "worker": "712d01fd-c0b7-4c7a-a071-34b8db1270ba", "app_mode": "interactive",
        "frontend_mode": "port", "port": port,
        "route_info": [{"session_id": SessionId::random(), "kernel_host": "127.0.0.1",
            "kernel_port": 1, "protocol": "http", "traffic_ratio": 1.0}],
        "created_at": "2026-08-23T01:02:03Z", "updated_at": "2026-08-23T01:02:03Z",
    }))
    .unwrap()
}

fn at_subdomain(name: &str) -> Circuit {
    let mut circuit = circuit(0);
    circuit.frontend_mode = patchbay_common::circuit::FrontendMode::Wildcard;
    circuit.port = None;
    circuit.subdomain = Some(name.into());
    circuit
}

#[test]
fn a_circuit_is_found_by_its_slot_until_it_is_removed() {
    let table = Table::new();
    let (port, name) = (circuit(10_205), at_subdomain("My-App"));
    table.apply(&Change::Created(vec![port.clone(), name.clone()]));
    assert_eq!(table.at_port(10_205).unwrap().circuit, port);
    assert_eq!(table.at_subdomain("my-app").unwrap().circuit, name);
    assert!(table.at_port(10_206).is_none());

    let live = table.at_port(10_205).unwrap();
    table.apply(&Change::Removed(vec![port]));
    assert!(table.at_port(10_205).is_none());
    assert!(live.closed.is_cancelled());
    assert_eq!(table.len(), 1);
}

#[test]
fn a_slot_given_again_closes_the_circuit_whose_removal_was_lost() {
    let table = Table::new();
    let (old, new) = (circuit(10_205), circuit(10_205));
    table.apply(&Change::Created(vec![old.clone()]));
    let live = table.at_port(10_205).unwrap();
    table.apply(&Change::Created(vec![new.clone()]));
    assert!(live.closed.is_cancelled());
    assert_eq!(table.len(), 1);
    // The late removal of the old one must not take the new one's slot.
    table.apply(&Change::Removed(vec![old]));
    assert_eq!(table.at_port(10_205).unwrap().circuit, new);
}

#[test]
fn new_routes_rule_and_streams_go_on() {
    let table = Table::new();
    let circuit = circuit(10_205);
    table.apply(&Change::Created(vec![circuit.clone()]));
    let before = table.at_port(10_205).unwrap();
    let mut routes = circuit.route_info.clone();
    routes[0].kernel_port = 2;
    table.apply(&Change::RouteUpdated(Box::new(circuit), routes));
    let after = table.at_port(10_205).unwrap();
    assert_eq!(
        &*after.upstreams.pick(&[]).unwrap().upstream.label,
        "127.0.0.1:2"
    );
    assert!(!after.closed.is_cancelled());
    before.closed.cancel();
    assert!(
        after.closed.is_cancelled(),
        "one token for the circuit's life"
    );
}

#[test]
fn replacing_closes_the_missing_and_leaves_the_rest_untouched() {
    let table = Table::new();
    let (stays, goes, comes) = (circuit(1), circuit(2), circuit(3));
    table.apply(&Change::Created(vec![stays.clone(), goes]));
    let (stayed, gone) = (table.at_port(1).unwrap(), table.at_port(2).unwrap());
    table.replace(vec![stays, comes]);
    assert!(Arc::ptr_eq(&stayed, &table.at_port(1).unwrap()));
    assert!(gone.closed.is_cancelled());
    assert!(table.at_port(2).is_none());
    assert!(table.at_port(3).is_some());
}

#[test]
fn a_circuit_that_moves_leaves_its_old_slot() {
    let table = Table::new();
    let mut circuit = circuit(1);
    table.apply(&Change::Created(vec![circuit.clone()]));
    circuit.port = Some(2);
    table.apply(&Change::Created(vec![circuit]));
    assert!(table.at_port(1).is_none());
    assert!(table.at_port(2).is_some());
    assert_eq!(table.len(), 1);
}
