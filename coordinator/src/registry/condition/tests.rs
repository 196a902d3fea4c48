use chrono::Utc;
use patchbay_common::circuit::{AppMode, Protocol};
use patchbay_common::id::SessionId;
use patchbay_common::route_report::{CircuitReport, RouteReport};
use patchbay_common::timestamp;
use serde_json::json;

use super::*;
use crate::store::CircuitCount;

fn worker(status: WorkerStatus) -> Worker {
    Worker {
        id: WorkerId::random(),
        authority: "w".into(),
        frontend_mode: patchbay_common::circuit::FrontendMode::Port,
        protocol: Protocol::Http,
        hostname: "h".into(),
        tls_listen: false,
        tls_advertised: false,
        api_port: 1,
        port_range: None,
        wildcard_domain: None,
        wildcard_traffic_port: None,
        filtered_apps_only: false,
        traefik_last_used_marker_path: None,
        accepted_traffics: Vec::new(),
        created_at: Utc::now(),
        updated_at: Utc::now(),
        available_slots: 1,
        occupied_slots: 0,
        nodes: 2,
        status,
    }
}

fn circuit(worker: &Worker, ports: &[u16]) -> Circuit {
    let route = |port| json!({"session_id": SessionId::random(), "kernel_host": "10.0.0.1", "kernel_port": port});
    let routes: Vec<_> = ports.iter().map(route).collect();
    serde_json::from_value(json!({
        "id": CircuitId::random(), "protocol": "http", "worker": worker.id,
        "app_mode": "inference", "frontend_mode": "port", "port": 1, "route_info": routes,
        "created_at": "2026-08-23T01:02:03Z", "updated_at": "2026-08-23T01:02:03Z",
    }))
    .unwrap()
}

fn report(worker: &Worker, node: &str, circuit: &Circuit, ports: &[u16]) -> NodeReport {
    let down = |port: &u16| DownRoute {
        route: None,
        session: SessionId::random(),
        address: format!("10.0.0.1:{port}"),
        since: timestamp::now(),
        error: Some("it refuses connections".into()),
    };
    NodeReport {
        worker: worker.id,
        node: node.into(),
        reported_at: timestamp::now(),
        report: RouteReport {
            circuits: vec![CircuitReport {
                circuit: circuit.id,
                routes: circuit.route_info.len() as u32,
                down: ports.iter().map(down).collect(),
            }],
            truncated: false,
        },
    }
}

fn seen(picture: &Picture, circuit: &Circuit) -> (Condition, Vec<Condition>) {
    let routes = picture.routes(circuit);
    let conditions = routes.iter().map(|route| route.condition).collect();
    (overall(&routes), conditions)
}

#[test]
fn nodes_are_heard_together() {
    use Condition::{Degraded, Healthy, Unhealthy, Unknown};
    let alive = worker(WorkerStatus::Alive);
    let both = circuit(&alive, &[1, 2]);
    let cases: [(&[&[u16]], Condition, [Condition; 2]); 5] = [
        (&[], Unknown, [Unknown, Unknown]),
        (&[&[], &[]], Healthy, [Healthy, Healthy]),
        (&[&[1], &[1]], Degraded, [Unhealthy, Healthy]),
        (&[&[1], &[]], Degraded, [Degraded, Healthy]),
        (&[&[1, 2], &[2, 1]], Unhealthy, [Unhealthy, Unhealthy]),
    ];
    for (nodes, all, each) in cases {
        let reports = nodes.iter().enumerate();
        let reports = reports.map(|(n, down)| report(&alive, &n.to_string(), &both, down));
        let picture = Picture::new(vec![alive.clone()], reports.collect());
        assert_eq!(seen(&picture, &both), (all, each.to_vec()), "{nodes:?}");
    }
}

#[test]
fn a_lost_worker_says_nothing() {
    let lost = worker(WorkerStatus::Lost);
    let one = circuit(&lost, &[1]);
    let picture = Picture::new(vec![lost.clone()], vec![report(&lost, "n", &one, &[])]);
    assert_eq!(
        seen(&picture, &one),
        (Condition::Unknown, vec![Condition::Unknown])
    );
    assert_eq!(picture.workers(), (0, 1, 0));
}

#[test]
fn what_nobody_complains_of_is_well() {
    let (speaks, silent) = (worker(WorkerStatus::Alive), worker(WorkerStatus::Alive));
    let (dead, half) = (circuit(&speaks, &[1]), circuit(&speaks, &[1, 2]));
    let mut told = report(&speaks, "n", &dead, &[1]);
    told.report
        .circuits
        .extend(report(&speaks, "n", &half, &[2]).report.circuits);
    let count = |worker: &Worker, count| CircuitCount {
        worker: worker.id,
        app_mode: AppMode::Inference,
        protocol: Protocol::Http,
        count,
    };
    let figures = Figures {
        circuits: vec![count(&speaks, 10), count(&silent, 3)],
        outbox: 0,
    };
    let picture = Picture::new(vec![speaks, silent], vec![told]);
    let expected = Tally {
        total: 13,
        healthy: 8,
        degraded: 1,
        unhealthy: 1,
        unknown: 3,
    };
    assert_eq!(picture.tally(&figures), (expected, 2));
}
