//! Grants that count no more: kept with their circuit, told to its worker, noted in the audit.

use patchbay_common::circuit::Circuit;
use patchbay_common::event::Change;
use patchbay_common::grant::{Grant, MAX_NAMES, Revocation};
use patchbay_common::id::CircuitId;
use patchbay_common::worker::Worker;

use super::{Bench, asked, open, port_worker};
use crate::store::{Action, AuditFilter, SlotWish, Store, StoreError};

async fn opened(store: &dyn Store) -> (Worker, Circuit) {
    let registration = port_worker("w", (20000, 20009));
    let worker = store.register_worker(&registration).await.unwrap();
    let opened = open(store, &worker, SlotWish::AnyPort).await.unwrap();
    (worker, opened.circuit)
}

pub(super) async fn revocations_are_kept_and_told(bench: Bench) {
    let store = &*bench.store;
    let (worker, circuit) = opened(store).await;
    assert!(circuit.revocations.is_empty());
    let one = Revocation::Name("one".into(), None);
    let told = store.revoke(circuit.id, &one, &asked("req-2")).await;
    let told = told.unwrap().unwrap();
    assert_eq!((told.authority.as_str(), told.generation), ("w", 2));
    let all = Revocation::UpTo(77);
    store
        .revoke(circuit.id, &all, &asked("req-3"))
        .await
        .unwrap();

    let kept = bench.other.circuit(circuit.id).await.unwrap().unwrap();
    assert!(kept.revocations.denies(&Grant::named("one"), 0));
    assert_eq!(kept.revocations.up_to, Some(77));
    let listed = store.worker_circuits(worker.id).await.unwrap().unwrap();
    assert_eq!(listed.circuits, vec![kept.clone()]);
    let told = store.events_after(worker.id, 1, 10).await.unwrap().unwrap();
    let Change::RouteUpdated(last, routes) = &told[1].event.change else {
        panic!("{:?}", told[1]);
    };
    assert_eq!(
        (&last.revocations, routes),
        (&kept.revocations, &kept.route_info)
    );

    let filter = AuditFilter {
        action: Some(Action::Revoked),
        ..AuditFilter::default()
    };
    let rows = store.audit(&filter, 10).await.unwrap();
    let ids: Vec<_> = rows
        .iter()
        .map(|row| row.cause.request_id.clone())
        .collect();
    assert_eq!(ids, [Some("req-3".into()), Some("req-2".into())]);
    let nobody = store.revoke(CircuitId::random(), &one, &asked("r")).await;
    assert_eq!(nobody.unwrap(), None);
}

pub(super) async fn a_full_list_takes_no_more(bench: Bench) {
    let store = &*bench.store;
    let (worker, circuit) = opened(store).await;
    let name = |number: usize| Revocation::Name(format!("n{number}"), None);
    for number in 0..MAX_NAMES {
        store
            .revoke(circuit.id, &name(number), &asked("r"))
            .await
            .unwrap();
    }
    let refused = store
        .revoke(circuit.id, &name(MAX_NAMES), &asked("r"))
        .await;
    assert!(
        matches!(refused, Err(StoreError::ListFull(_))),
        "{refused:?}"
    );
    let generation = store.generation(worker.id).await.unwrap();
    assert_eq!(
        generation,
        1 + MAX_NAMES as u64,
        "a refusal changes nothing"
    );
}
