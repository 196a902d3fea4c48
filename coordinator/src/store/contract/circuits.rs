//! Opening, sharing, closing, and slots.

use chrono::TimeDelta;
use patchbay_common::circuit::{FrontendMode, Protocol};
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::timestamp;

use super::{at_domain, circuit, on_both_stores, registration, shared};
use crate::store::{SlotWish, Store, StoreError};

async fn a_circuit_is_kept_as_it_was_opened(store: &dyn Store) {
    let worker = store.register_worker(&registration("w")).await.unwrap();
    let mut new = circuit(worker.id, SlotWish::AnyPort);
    new.protocol = Protocol::Vnc;
    let opened = store.open_circuit(&new).await.unwrap();
    assert!(!opened.reused);
    assert_eq!((opened.generation, opened.worker.occupied_slots), (1, 1));
    let kept = store.circuit(new.id).await.unwrap().unwrap();
    assert_eq!(kept, opened.circuit);
    assert_eq!((kept.port, kept.protocol), (Some(10_205), Protocol::Tcp));
    assert_eq!(kept.route_info, new.routes);
    assert_eq!(kept.envs, new.envs);
    assert_eq!(kept.origin_request_id.as_deref(), Some("req-1"));

    let closed = store
        .close_circuit(new.id, Some("req-2"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((closed.generation, closed.authority.as_str()), (2, "w"));
    assert_eq!(closed.circuit, kept);
    assert_eq!(store.circuit(new.id).await.unwrap(), None);
    assert_eq!(store.close_circuit(new.id, None).await.unwrap(), None);
    assert_eq!(
        store
            .worker(worker.id)
            .await
            .unwrap()
            .unwrap()
            .occupied_slots,
        0
    );
}

async fn a_port_is_given_once(store: &dyn Store) {
    let worker = store.register_worker(&registration("w")).await.unwrap();
    let open = |slot| {
        let new = circuit(worker.id, slot);
        async move { store.open_circuit(&new).await }
    };
    let wished = open(SlotWish::Port(10_207)).await.unwrap();
    assert_eq!(wished.circuit.port, Some(10_207));
    let taken = open(SlotWish::Port(10_207)).await.unwrap_err();
    assert!(
        matches!(taken, StoreError::PortTaken { port: 10_207, .. }),
        "{taken}"
    );
    let outside = open(SlotWish::Port(10_210)).await.unwrap_err();
    assert!(matches!(outside, StoreError::PortTaken { .. }));
    let mut given = Vec::new();
    for _ in 0..4 {
        given.push(open(SlotWish::AnyPort).await.unwrap().circuit.port.unwrap());
    }
    assert_eq!(given, [10_205, 10_206, 10_208, 10_209]);
    let full = open(SlotWish::AnyPort).await.unwrap_err();
    assert!(
        matches!(full, StoreError::WorkerFull(id) if id == worker.id),
        "{full}"
    );
    store.close_circuit(wished.circuit.id, None).await.unwrap();
    assert_eq!(
        open(SlotWish::AnyPort).await.unwrap().circuit.port,
        Some(10_207)
    );

    let wrong = open(SlotWish::Subdomain("x".into())).await.unwrap_err();
    assert!(matches!(wrong, StoreError::NoSuchWorker(_)));
    let nobody = store
        .open_circuit(&circuit(WorkerId::random(), SlotWish::AnyPort))
        .await;
    assert!(matches!(nobody, Err(StoreError::NoSuchWorker(_))));
}

async fn a_subdomain_is_given_once_in_its_domain(store: &dyn Store) {
    let one = store
        .register_worker(&at_domain("one", ".app.local"))
        .await
        .unwrap();
    let two = store
        .register_worker(&at_domain("two", ".APP.local"))
        .await
        .unwrap();
    let other = store
        .register_worker(&at_domain("other", ".lab.local"))
        .await
        .unwrap();
    let wish = || SlotWish::Subdomain("llm".to_owned());
    let opened = store.open_circuit(&circuit(one.id, wish())).await.unwrap();
    assert_eq!(opened.circuit.frontend_mode, FrontendMode::Wildcard);
    for worker in [one.id, two.id] {
        let taken = store
            .open_circuit(&circuit(worker, wish()))
            .await
            .unwrap_err();
        assert!(
            matches!(taken, StoreError::SubdomainTaken { .. }),
            "{taken}"
        );
    }
    store
        .open_circuit(&circuit(other.id, wish()))
        .await
        .unwrap();
}

async fn an_equal_opening_shares_the_circuit(store: &dyn Store) {
    let worker = store.register_worker(&registration("w")).await.unwrap();
    let new = shared(circuit(worker.id, SlotWish::AnyPort));
    let first = store.open_circuit(&new).await.unwrap();
    let mut again = new.clone();
    again.id = CircuitId::random();
    let second = store.open_circuit(&again).await.unwrap();
    assert!(second.reused);
    assert_eq!(second.circuit, first.circuit);
    assert_eq!(second.generation, first.generation, "nothing has changed");
    let found = store
        .reusable_circuit(new.reuse.as_ref().unwrap())
        .await
        .unwrap();
    assert_eq!(found.unwrap().circuit, first.circuit);

    let mut different = again.clone();
    different.id = CircuitId::random();
    different.reuse.as_mut().unwrap().allowed_client_ips = Some("10.0.0.0/8".to_owned());
    assert!(!store.open_circuit(&different).await.unwrap().reused);

    store
        .mark_lost(timestamp::now() + TimeDelta::seconds(60))
        .await
        .unwrap();
    let none = store
        .reusable_circuit(new.reuse.as_ref().unwrap())
        .await
        .unwrap();
    assert_eq!(none, None, "a lost worker's circuit is no use");
}

async fn what_does_not_fit_is_refused_by_name(store: &dyn Store) {
    let worker = store.register_worker(&registration("w")).await.unwrap();
    let mut new = circuit(worker.id, SlotWish::AnyPort);
    new.app = Some("a".repeat(256));
    let refused = store.open_circuit(&new).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Unfit { field: "app", .. }),
        "{refused}"
    );
    assert_eq!(store.generation(worker.id).await.unwrap(), 0);
}

on_both_stores!(
    a_circuit_is_kept_as_it_was_opened,
    a_port_is_given_once,
    a_subdomain_is_given_once_in_its_domain,
    an_equal_opening_shares_the_circuit,
    what_does_not_fit_is_refused_by_name,
);
