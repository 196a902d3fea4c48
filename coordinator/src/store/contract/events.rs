//! Generations, the log of events, acknowledgements.

use chrono::TimeDelta;
use patchbay_common::event::Change;
use patchbay_common::id::WorkerId;
use patchbay_common::timestamp;

use super::{circuit, on_both_stores, registration};
use crate::store::{SlotWish, Store};

async fn every_change_is_logged_in_its_order(store: &dyn Store) {
    let worker = store.register_worker(&registration("w")).await.unwrap();
    let new = circuit(worker.id, SlotWish::AnyPort);
    let opened = store.open_circuit(&new).await.unwrap();
    store.close_circuit(new.id, Some("req-2")).await.unwrap();

    let events = store.events_after(worker.id, 0, 10).await.unwrap().unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|e| (e.generation, e.request_id.as_deref()))
        .collect();
    assert_eq!(told, [(1, Some("req-1")), (2, Some("req-2"))]);
    assert_eq!(events[0].event.authority, "w");
    assert_eq!(
        events[0].event.change,
        Change::Created(vec![opened.circuit.clone()])
    );
    assert_eq!(
        events[1].event.change,
        Change::Removed(vec![opened.circuit])
    );
    assert_eq!(
        store.events_after(worker.id, 0, 1).await.unwrap().unwrap(),
        events[..1]
    );
    assert_eq!(
        store.events_after(worker.id, 2, 9).await.unwrap(),
        Some(vec![])
    );
    assert_eq!(
        store.events_after(worker.id, 3, 9).await.unwrap(),
        None,
        "from the future"
    );
    let held = store.worker_circuits(worker.id).await.unwrap().unwrap();
    assert_eq!((held.generation, held.circuits.len()), (2, 0));
    assert_eq!(
        store.worker_circuits(WorkerId::random()).await.unwrap(),
        None
    );
}

async fn published_events_are_forgotten_and_only_those(store: &dyn Store) {
    let worker = store.register_worker(&registration("w")).await.unwrap();
    for _ in 0..2 {
        store
            .open_circuit(&circuit(worker.id, SlotWish::AnyPort))
            .await
            .unwrap();
    }
    let soon = timestamp::now() + TimeDelta::seconds(60);
    let long_ago = timestamp::now() - TimeDelta::seconds(60);
    assert!(store.unpublished(long_ago, 10).await.unwrap().is_empty());
    assert_eq!(store.unpublished(soon, 10).await.unwrap().len(), 2);
    store.mark_published(&[(worker.id, 1)]).await.unwrap();
    store.mark_published(&[]).await.unwrap();
    let left = store.unpublished(soon, 10).await.unwrap();
    assert_eq!(left.iter().map(|e| e.generation).collect::<Vec<_>>(), [2]);
    assert_eq!(store.prune_events(soon).await.unwrap(), 1);
    assert_eq!(
        store.events_after(worker.id, 0, 10).await.unwrap(),
        None,
        "fetch everything"
    );
    let rest = store.events_after(worker.id, 1, 10).await.unwrap().unwrap();
    assert_eq!(rest.len(), 1);
}

async fn an_acknowledgement_never_goes_back_nor_ahead(store: &dyn Store) {
    let worker = store.register_worker(&registration("w")).await.unwrap();
    for _ in 0..3 {
        store
            .open_circuit(&circuit(worker.id, SlotWish::AnyPort))
            .await
            .unwrap();
    }
    assert_eq!(store.acknowledged(worker.id).await.unwrap(), 0);
    for (given, kept) in [(2, 2), (1, 2), (9, 3)] {
        store.acknowledge(worker.id, given).await.unwrap();
        assert_eq!(store.acknowledged(worker.id).await.unwrap(), kept);
    }
    assert_eq!(store.acknowledged(WorkerId::random()).await.unwrap(), 0);
}

/// After any churn the log, told to an empty table, gives what the store holds.
async fn the_log_adds_up_to_the_store(store: &dyn Store) {
    let worker = store.register_worker(&registration("w")).await.unwrap();
    let mut open: Vec<_> = Vec::new();
    for step in 0..30u32 {
        if open.len() == 5 || (!open.is_empty() && step % 3 == 0) {
            let id = open.swap_remove((step as usize * 7) % open.len());
            store.close_circuit(id, None).await.unwrap();
        } else {
            let new = circuit(worker.id, SlotWish::AnyPort);
            open.push(store.open_circuit(&new).await.unwrap().circuit.id);
        }
    }
    let mut told = Vec::new();
    for logged in store
        .events_after(worker.id, 0, 100)
        .await
        .unwrap()
        .unwrap()
    {
        match logged.event.change {
            Change::Created(circuits) => told.extend(circuits.into_iter().map(|c| c.id)),
            Change::Removed(circuits) => told.retain(|id| circuits.iter().all(|c| c.id != *id)),
            other => panic!("{other:?}"),
        }
    }
    let held = store.worker_circuits(worker.id).await.unwrap().unwrap();
    assert_eq!(held.generation, 30);
    let mut held: Vec<_> = held.circuits.iter().map(|c| c.id).collect();
    held.sort();
    told.sort();
    assert_eq!(told, held);
}

on_both_stores!(
    every_change_is_logged_in_its_order,
    published_events_are_forgotten_and_only_those,
    an_acknowledgement_never_goes_back_nor_ahead,
    the_log_adds_up_to_the_store,
);
