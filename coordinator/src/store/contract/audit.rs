//! The audit: a row for every change, written with it or not at all.

use std::time::Duration;

use chrono::Utc;
use patchbay_common::circuit::AppMode;
use patchbay_common::id::{EndpointId, RouteId, SessionId, WorkerId};
use patchbay_common::route::Route;
use patchbay_common::worker::Registration;

use super::{Bench, asked, circuit_on, open, port_worker};
use crate::store::{
    Action, Actor, AuditEntry, AuditFilter, Cause, NewCircuit, NewEndpoint, Reason, RouteChange,
    SlotWish, Store, StoreError,
};

async fn all(store: &dyn Store) -> Vec<AuditEntry> {
    let mut rows = store.audit(&AuditFilter::default(), 100).await.unwrap();
    rows.reverse();
    rows
}

fn kinds(rows: &[AuditEntry]) -> Vec<(Action, Reason)> {
    let kind = |row: &AuditEntry| (row.action, row.cause.reason);
    rows.iter().map(kind).collect()
}

pub(super) async fn every_change_leaves_a_row(bench: Bench) {
    let store = &*bench.store;
    let registration = Registration {
        accepted_traffics: vec![AppMode::Interactive, AppMode::Inference],
        ..port_worker("w", (20000, 20009))
    };
    let worker = store.register_worker(&registration).await.unwrap();
    let one = open(store, &worker, SlotWish::AnyPort).await.unwrap();
    let two = open(store, &worker, SlotWish::AnyPort).await.unwrap();
    let idle = Cause::now(Actor::Coordinator, Reason::Idle).because("not used for 7 s");
    store.close_circuit(one.circuit.id, &idle).await.unwrap();
    store.close_circuit(one.circuit.id, &idle).await.unwrap();
    let both = [one.circuit.id, two.circuit.id];
    store.close_circuits(&both, &asked("req-2")).await.unwrap();

    let endpoint = EndpointId::random();
    let new = NewEndpoint {
        id: endpoint,
        health_check: None,
        circuit: Some(NewCircuit {
            app_mode: AppMode::Inference,
            endpoint_id: Some(endpoint),
            by: Actor::Manager,
            session_ids: Vec::new(),
            routes: Vec::new(),
            ..circuit_on(worker.id, SlotWish::AnyPort)
        }),
    };
    store
        .open_endpoints(std::slice::from_ref(&new))
        .await
        .unwrap();
    store.open_endpoints(&[new]).await.unwrap();
    let route = Route {
        route_id: Some(RouteId::random()),
        ..circuit_on(worker.id, SlotWish::AnyPort).routes[0].clone()
    };
    let change = [(endpoint, RouteChange::Register(vec![route]))];
    store.change_routes(&change, &asked("req-3")).await.unwrap();
    store.change_routes(&change, &asked("req-4")).await.unwrap();
    let deleted = Cause::now(Actor::Manager, Reason::EndpointDeleted);
    store.delete_endpoints(&[endpoint], &deleted).await.unwrap();

    let rows = all(&*bench.other).await;
    let expected = [
        (Action::Opened, Reason::Requested),
        (Action::Opened, Reason::Requested),
        (Action::Closed, Reason::Idle),
        (Action::Closed, Reason::Requested),
        (Action::Opened, Reason::Requested),
        (Action::Rerouted, Reason::Requested),
        (Action::Closed, Reason::EndpointDeleted),
    ];
    assert_eq!(kinds(&rows), expected);
    let (opened, closed) = (&rows[0], &rows[2]);
    assert_eq!(opened.circuit, one.circuit.id);
    assert_eq!(opened.app.as_deref(), Some("jupyter"));
    assert_eq!(opened.session_ids, one.circuit.session_ids);
    assert_eq!((opened.worker, opened.authority.as_str()), (worker.id, "w"));
    assert_eq!((opened.slot.as_str(), &opened.from), ("20000", &None));
    assert_eq!(opened.cause.actor, Actor::Session);
    assert_eq!(opened.cause.request_id.as_deref(), Some("req-1"));
    assert_eq!((closed.circuit, &closed.cause), (one.circuit.id, &idle));
    assert_eq!(rows[3].cause.request_id.as_deref(), Some("req-2"));
    assert_eq!(rows[5].cause.request_id.as_deref(), Some("req-3"));
    assert_eq!(rows[6].endpoint_id, Some(endpoint));
    assert!(rows.is_sorted_by_key(|row| (row.seq, row.at)));
}

pub(super) async fn what_fails_leaves_no_row(bench: Bench) {
    let store = &*bench.store;
    let worker = store
        .register_worker(&port_worker("w", (20000, 20000)))
        .await
        .unwrap();
    open(store, &worker, SlotWish::AnyPort).await.unwrap();
    let full = open(store, &worker, SlotWish::AnyPort).await;
    assert!(matches!(full, Err(StoreError::WorkerFull(_))));
    let taken = open(store, &worker, SlotWish::Port(20000)).await;
    assert!(matches!(taken, Err(StoreError::PortTaken { .. })));
    assert_eq!(all(store).await.len(), 1);
    // What is undone half way is undone with its row: the log of events refuses.
    let broken = match bench.place {
        super::Place::Server(_) => "ALTER TABLE patchbay_events ADD CHECK (generation < 2)",
        _ => {
            "CREATE TRIGGER no_more BEFORE INSERT ON patchbay_events \
             BEGIN SELECT RAISE(ABORT, 'no more'); END"
        }
    };
    if bench.behind_its_back(broken).await {
        let held = store.worker_circuits(worker.id).await.unwrap().unwrap();
        let id = held.circuits[0].id;
        store.close_circuit(id, &asked("req-2")).await.unwrap_err();
        assert_eq!(all(store).await.len(), 1);
        assert!(store.circuit(id).await.unwrap().is_some());
    }
}

pub(super) async fn rows_are_filtered_and_paged(bench: Bench) {
    let store = &*bench.store;
    let mut opened = Vec::new();
    for name in ["a", "b"] {
        let worker = store
            .register_worker(&port_worker(name, (20000, 20009)))
            .await
            .unwrap();
        for _ in 0..2 {
            opened.push(open(store, &worker, SlotWish::AnyPort).await.unwrap());
        }
    }
    let id = opened[0].circuit.id;
    store.close_circuit(id, &asked("req-2")).await.unwrap();
    let count = async |filter: AuditFilter| store.audit(&filter, 100).await.unwrap().len();
    let any = AuditFilter::default;
    let of = |circuit| AuditFilter {
        circuit: Some(circuit),
        ..any()
    };
    assert_eq!(count(any()).await, 5);
    assert_eq!(count(of(id)).await, 2);
    let action = Some(Action::Closed);
    assert_eq!(count(AuditFilter { action, ..any() }).await, 1);
    assert_eq!(
        count(AuditFilter {
            action,
            ..of(opened[1].circuit.id)
        })
        .await,
        0
    );
    for (session, rows) in [
        (opened[0].circuit.session_ids[0], 2),
        (SessionId::random(), 0),
    ] {
        let session = Some(session);
        assert_eq!(count(AuditFilter { session, ..any() }).await, rows);
    }
    for (worker, rows) in [(opened[0].worker.id, 3), (WorkerId::random(), 0)] {
        let worker = Some(worker);
        assert_eq!(count(AuditFilter { worker, ..any() }).await, rows);
    }
    let rows = all(store).await;
    let middle = Some(rows[2].at);
    let since = count(AuditFilter {
        since: middle,
        ..any()
    })
    .await;
    let until = count(AuditFilter {
        until: middle,
        ..any()
    })
    .await;
    assert!(since >= 3 && since + until == 5, "{since} {until}");
    let page = store.audit(&any(), 2).await.unwrap();
    assert_eq!(page, [rows[4].clone(), rows[3].clone()]);
    let before = Some(page[1].seq);
    let page = store
        .audit(&AuditFilter { before, ..any() }, 2)
        .await
        .unwrap();
    assert_eq!(page, [rows[2].clone(), rows[1].clone()]);
}

pub(super) async fn old_rows_are_forgotten(bench: Bench) {
    let store = &*bench.store;
    let worker = store
        .register_worker(&port_worker("w", (20000, 20009)))
        .await
        .unwrap();
    for _ in 0..5 {
        open(store, &worker, SlotWish::AnyPort).await.unwrap();
    }
    let rows = all(store).await;
    let long_ago = Utc::now() - Duration::from_secs(3600);
    assert_eq!(store.prune_audit(long_ago, 100).await.unwrap(), 0);
    let soon = Utc::now() + Duration::from_secs(5);
    assert_eq!(store.prune_audit(soon, 2).await.unwrap(), 2);
    assert_eq!(all(store).await, rows[2..]);
    let session = Some(rows[0].session_ids[0]);
    let filter = AuditFilter {
        session,
        ..AuditFilter::default()
    };
    assert_eq!(store.audit(&filter, 10).await.unwrap(), []);
    assert_eq!(store.prune_audit(soon, 100).await.unwrap(), 3);
    assert_eq!(all(store).await, []);
}
