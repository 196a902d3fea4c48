//! Sharing a circuit instead of opening a second one.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use patchbay_common::circuit::Protocol;
use patchbay_common::id::SessionId;

use super::{Bench, circuit_on, port_worker};
use crate::store::{NewCircuit, Reuse, SlotWish};

fn reuse_of(new: &NewCircuit) -> Reuse {
    Reuse {
        session: new.session_ids[0],
        app: new.app.clone(),
        protocol: new.protocol,
        open_to_public: new.open_to_public,
        allowed_client_ips: new.allowed_client_ips.clone(),
    }
}

pub(super) async fn openers_at_once_share_one_circuit(bench: Bench) {
    let mut workers = Vec::new();
    for authority in ["a", "b"] {
        let registration = port_worker(authority, (10205, 10300));
        workers.push(bench.store.register_worker(&registration).await.unwrap());
    }
    let model = circuit_on(workers[0].id, SlotWish::AnyPort);
    let openers: Vec<_> = (0..20)
        .map(|number| {
            let store = Arc::clone(if number % 2 == 0 {
                &bench.store
            } else {
                &bench.other
            });
            let new = NewCircuit {
                id: patchbay_common::id::CircuitId::random(),
                worker: workers[number / 10].id,
                reuse: Some(reuse_of(&model)),
                ..model.clone()
            };
            tokio::spawn(async move { store.open_circuit(&new).await.unwrap() })
        })
        .collect();
    let mut circuits = Vec::new();
    let mut fresh = 0;
    for opener in openers {
        let opened = opener.await.unwrap();
        assert_eq!(opened.generation, 1);
        assert_eq!(opened.worker.id, opened.circuit.worker);
        fresh += usize::from(!opened.reused);
        circuits.push(opened.circuit);
    }
    assert_eq!(fresh, 1);
    assert!(circuits.windows(2).all(|pair| pair[0] == pair[1]));
    let soon = Utc::now() + Duration::from_secs(5);
    let events = bench.store.unpublished(soon, 100).await.unwrap();
    assert_eq!(events.len(), 1, "sharing is not a change");
}

pub(super) async fn only_an_equal_circuit_is_shared(bench: Bench) {
    let store = &*bench.store;
    let registration = port_worker("w", (10205, 10209));
    let worker = store.register_worker(&registration).await.unwrap();
    let new = NewCircuit {
        protocol: Protocol::Preopen,
        ..circuit_on(worker.id, SlotWish::AnyPort)
    };
    let opened = store.open_circuit(&new).await.unwrap();
    let equal = reuse_of(&new);
    let shared = store.reusable_circuit(&equal).await.unwrap().unwrap();
    assert_eq!(shared.circuit, opened.circuit);
    assert!(shared.reused && shared.generation == 1);

    let unequal = [
        Reuse {
            session: SessionId::random(),
            ..equal.clone()
        },
        Reuse {
            app: Some("rstudio".to_owned()),
            ..equal.clone()
        },
        Reuse {
            app: None,
            ..equal.clone()
        },
        Reuse {
            protocol: Protocol::Vnc,
            ..equal.clone()
        },
        Reuse {
            open_to_public: true,
            ..equal.clone()
        },
        Reuse {
            allowed_client_ips: Some("10.0.0.1".to_owned()),
            ..equal.clone()
        },
    ];
    for reuse in unequal {
        let found = store.reusable_circuit(&reuse).await.unwrap();
        assert_eq!(found, None, "{reuse:?}");
    }

    // A lost worker's circuits lead nowhere.
    store
        .mark_lost(Utc::now() + Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(store.reusable_circuit(&equal).await.unwrap(), None);
    store.heartbeat(worker.id, None).await.unwrap();
    assert!(store.reusable_circuit(&equal).await.unwrap().is_some());
}
