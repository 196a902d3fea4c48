//! What nodes report of their routes, and what is counted.

use chrono::{TimeDelta, Utc};
use patchbay_common::circuit::{AppMode, Protocol};
use patchbay_common::id::{CircuitId, EndpointId, SessionId, WorkerId};
use patchbay_common::route_report::{CircuitReport, DownRoute, RouteReport};
use patchbay_common::timestamp;

use super::{Bench, circuit_on, port_worker};
use crate::store::{CircuitCount, NewCircuit, NewEndpoint, SlotWish};

fn report(error: &str) -> RouteReport {
    RouteReport {
        circuits: vec![CircuitReport {
            circuit: CircuitId::random(),
            routes: 2,
            down: vec![DownRoute {
                route: None,
                session: SessionId::random(),
                address: "10.0.0.1:8080".into(),
                since: timestamp::now(),
                error: Some(error.into()),
            }],
        }],
        truncated: false,
    }
}

pub(super) async fn each_node_has_one_report(bench: Bench) {
    let (store, other) = (&*bench.store, &*bench.other);
    let worker = store
        .register_worker(&port_worker("w", (10_205, 10_209)))
        .await
        .unwrap()
        .id;
    let start = Utc::now() - TimeDelta::seconds(1);
    assert!(
        !store
            .keep_report(WorkerId::random(), "n", &report("x"))
            .await
            .unwrap()
    );
    for (node, error) in [("n2", "old"), ("n1", "refused"), ("n2", "status 500")] {
        assert!(
            store
                .keep_report(worker, node, &report(error))
                .await
                .unwrap()
        );
    }
    let found = other.reports(start).await.unwrap();
    let said: Vec<_> = found
        .iter()
        .map(|one| {
            (
                one.worker,
                one.node.as_str(),
                one.report.circuits[0].down[0].error.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            (worker, "n1", Some("refused")),
            (worker, "n2", Some("status 500"))
        ]
    );
    assert_eq!(found[0].report.circuits[0].routes, 2);
    assert!(
        other
            .reports(Utc::now() + TimeDelta::minutes(1))
            .await
            .unwrap()
            .is_empty()
    );
}

pub(super) async fn circuits_and_waiting_events_are_counted(bench: Bench) {
    let store = &*bench.store;
    let worker = store
        .register_worker(&port_worker("w", (10_205, 10_209)))
        .await
        .unwrap()
        .id;
    assert_eq!(
        store.figures().await.unwrap(),
        crate::store::Figures::default()
    );
    for _ in 0..2 {
        store
            .open_circuit(&circuit_on(worker, SlotWish::AnyPort))
            .await
            .unwrap();
    }
    let raw = NewCircuit {
        protocol: Protocol::Tcp,
        ..circuit_on(worker, SlotWish::AnyPort)
    };
    store.open_circuit(&raw).await.unwrap();
    store.mark_published(&[(worker, 1)]).await.unwrap();
    let figures = store.figures().await.unwrap();
    let count = |protocol, count| CircuitCount {
        worker,
        app_mode: AppMode::Interactive,
        protocol,
        count,
    };
    assert_eq!(
        figures.circuits,
        [count(Protocol::Http, 2), count(Protocol::Tcp, 1)]
    );
    assert_eq!(figures.outbox, 2);
}

pub(super) async fn circuits_of_endpoints_are_paged(bench: Bench) {
    let store = &*bench.store;
    let worker = store
        .register_worker(&port_worker("w", (10_205, 10_209)))
        .await
        .unwrap()
        .id;
    store
        .open_circuit(&circuit_on(worker, SlotWish::AnyPort))
        .await
        .unwrap();
    let wishes: Vec<NewEndpoint> = (0..3)
        .map(|_| {
            let id = EndpointId::random();
            NewEndpoint {
                id,
                health_check: None,
                circuit: Some(NewCircuit {
                    app_mode: AppMode::Inference,
                    endpoint_id: Some(id),
                    session_ids: Vec::new(),
                    ..circuit_on(worker, SlotWish::AnyPort)
                }),
            }
        })
        .collect();
    let opened = store.open_endpoints(&wishes).await.unwrap();
    let mut expected: Vec<CircuitId> = opened.into_iter().map(|o| o.unwrap().circuit.id).collect();
    expected.sort_unstable();
    let first = store.endpoint_page(None, 2).await.unwrap();
    let rest = store.endpoint_page(Some(first[1].id), 2).await.unwrap();
    let ids: Vec<CircuitId> = first
        .iter()
        .chain(&rest)
        .map(|circuit| circuit.id)
        .collect();
    assert_eq!(ids, expected);
}
