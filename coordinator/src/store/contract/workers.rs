//! Registration, heartbeats, leaving, loss.

use chrono::TimeDelta;
use patchbay_common::id::WorkerId;
use patchbay_common::timestamp;
use patchbay_common::worker::{Registration, WorkerStatus};

use super::{at_domain, circuit, filter, on_both_stores, registration};
use crate::store::{SlotWish, Store};

async fn a_worker_is_known_by_its_name(store: &dyn Store) {
    let first = store.register_worker(&registration("w")).await.unwrap();
    assert_eq!(first.available_slots, 5);
    assert_eq!((first.nodes, first.status), (1, WorkerStatus::Alive));
    let wider = Registration {
        port_range: Some((10_501, 10_800)),
        accepted_traffics: vec![],
        app_filters: vec![filter("session.user_uuid", "u")],
        ..registration("w")
    };
    let second = store.register_worker(&wider).await.unwrap();
    assert_eq!(second.id, first.id);
    assert_eq!((second.available_slots, second.nodes), (300, 2));
    assert!(second.accepted_traffics.is_empty());
    assert_eq!(store.app_filters().await.unwrap().len(), 1);
    let narrow = store
        .register_worker(&at_domain("w", ".app"))
        .await
        .unwrap();
    assert_eq!(narrow.available_slots, -1);
    assert!(store.app_filters().await.unwrap().is_empty());

    assert_eq!(store.workers().await.unwrap().len(), 1);
    let by_name = store.worker_by_authority("w").await.unwrap().unwrap();
    assert_eq!(Some(by_name), store.worker(first.id).await.unwrap());
    assert_eq!(store.worker(WorkerId::random()).await.unwrap(), None);
    assert_eq!(store.heartbeat(WorkerId::random()).await.unwrap(), None);
}

async fn nodes_are_counted_by_name(store: &dyn Store) {
    let node = |name: &str| Registration {
        node_id: Some(name.to_owned()),
        ..registration("w")
    };
    let worker = store.register_worker(&node("a")).await.unwrap();
    store.register_worker(&node("b")).await.unwrap();
    let again = store.register_worker(&node("a")).await.unwrap();
    assert_eq!(again.nodes, 2, "a restart is not a second node");

    let left = store
        .leave_worker(worker.id, Some("a"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((left.nodes, left.status), (1, WorkerStatus::Alive));
    let twice = store
        .leave_worker(worker.id, Some("a"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(twice.nodes, 1, "a good-bye counts once");
    let gone = store
        .leave_worker(worker.id, Some("b"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((gone.nodes, gone.status), (0, WorkerStatus::Lost));
    let back = store.heartbeat(worker.id).await.unwrap().unwrap();
    assert_eq!(back.status, WorkerStatus::Alive);
    assert_eq!(
        store.leave_worker(WorkerId::random(), None).await.unwrap(),
        None
    );
}

async fn silent_workers_are_lost_and_keep_their_circuits(store: &dyn Store) {
    let worker = store.register_worker(&registration("w")).await.unwrap();
    store
        .open_circuit(&circuit(worker.id, SlotWish::AnyPort))
        .await
        .unwrap();
    let past = timestamp::now() - TimeDelta::seconds(60);
    assert!(store.mark_lost(past).await.unwrap().is_empty());
    let future = timestamp::now() + TimeDelta::seconds(60);
    let lost = store.mark_lost(future).await.unwrap();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].status, WorkerStatus::Lost);
    assert!(store.mark_lost(future).await.unwrap().is_empty(), "once");
    let held = store.worker_circuits(worker.id).await.unwrap().unwrap();
    assert_eq!(held.circuits.len(), 1);
}

on_both_stores!(
    a_worker_is_known_by_its_name,
    nodes_are_counted_by_name,
    silent_workers_are_lost_and_keep_their_circuits,
);
