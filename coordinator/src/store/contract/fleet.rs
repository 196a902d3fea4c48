//! What happens to several workers at once: circuits that move, nodes that vanish; and leases.

use std::time::Duration;

use chrono::Utc;
use patchbay_common::event::Change;
use patchbay_common::id::WorkerId;
use patchbay_common::worker::{Registration, Worker, WorkerStatus};
use patchbay_tests::eventually::eventually;
use uuid::Uuid;

use super::{Bench, Place, open, port_worker, subdomain, wildcard_worker};
use crate::store::{Action, Actor, AuditFilter, Cause, Reason, SlotWish, Store};

fn lost() -> Cause {
    Cause::now(Actor::Coordinator, Reason::WorkerLost)
}

async fn register(store: &dyn Store, registration: &Registration) -> Worker {
    store.register_worker(registration).await.unwrap()
}

async fn lose(store: &dyn Store, worker: &Worker) {
    let left = store.leave_worker(worker.id, None).await.unwrap().unwrap();
    assert_eq!(left.status, WorkerStatus::Lost);
}

pub(super) async fn circuits_move_with_both_workers_told(bench: Bench) {
    let store = &*bench.store;
    let old = register(store, &wildcard_worker("old", ".apps")).await;
    let new = register(store, &wildcard_worker("new", ".apps")).await;
    let mut circuits = Vec::new();
    for name in ["one", "two", "three"] {
        let opened = open(store, &old, subdomain(name)).await.unwrap();
        circuits.push(opened.circuit);
    }
    let ids: Vec<_> = circuits.iter().map(|circuit| circuit.id).collect();
    let moved = store.move_circuits(old.id, new.id, &ids, &lost()).await;
    assert_eq!(moved.unwrap(), [], "nobody is lost");
    lose(store, &old).await;
    let moved = store
        .move_circuits(old.id, new.id, &ids[..2], &lost())
        .await;
    let moved = moved.unwrap();
    assert_eq!(moved.len(), 2);
    for (one, place) in moved.iter().zip(1_u64..) {
        assert_eq!(one.left.circuit.id, one.arrived.circuit.id);
        assert_eq!(
            (one.left.circuit.worker, one.left.generation),
            (old.id, place + 3)
        );
        assert_eq!(
            (one.arrived.circuit.worker, one.arrived.generation),
            (new.id, place)
        );
        let circuit = store.circuit(one.left.circuit.id).await.unwrap().unwrap();
        assert_eq!(circuit, one.arrived.circuit);
    }
    let again = store
        .move_circuits(old.id, new.id, &ids[..2], &lost())
        .await;
    assert_eq!(again.unwrap(), [], "they are there");

    for (worker, held, generation) in [(&old, 1, 5), (&new, 2, 2)] {
        let circuits = bench
            .other
            .worker_circuits(worker.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (circuits.circuits.len(), circuits.generation),
            (held, generation)
        );
        let counted = store.worker(worker.id).await.unwrap().unwrap();
        assert_eq!(usize::try_from(counted.occupied_slots), Ok(held));
    }
    let told = store.events_after(old.id, 3, 10).await.unwrap().unwrap();
    let removed = |event: &_| matches!(event, Change::Removed(gone) if gone[0].worker == old.id);
    assert!(told.len() == 2 && told.iter().all(|told| removed(&told.event.change)));
    let told = store.events_after(new.id, 0, 10).await.unwrap().unwrap();
    let created =
        |event: &_| matches!(event, Change::Created(new_ones) if new_ones[0].worker == new.id);
    assert!(told.len() == 2 && told.iter().all(|told| created(&told.event.change)));

    moves_are_in_the_audit(store, old.id, new.id).await;
    // The name stays taken in the domain, and is free again where the circuit was.
    open(store, &new, subdomain("one")).await.unwrap_err();
    let closed = store.close_circuit(ids[0], &lost()).await.unwrap().unwrap();
    assert_eq!((closed.authority.as_str(), closed.generation), ("new", 3));
}

async fn moves_are_in_the_audit(store: &dyn Store, old: WorkerId, new: WorkerId) {
    let action = Some(Action::Moved);
    let filter = AuditFilter {
        action,
        worker: Some(old),
        ..AuditFilter::default()
    };
    let rows = store.audit(&filter, 10).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].worker, new);
    assert_eq!(rows[0].from, Some((old, "old".to_owned())));
}

pub(super) async fn what_cannot_move_stays(bench: Bench) {
    let store = &*bench.store;
    let old = register(store, &port_worker("old", (20000, 20009))).await;
    let new = register(store, &port_worker("new", (20000, 20009))).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(
            open(store, &old, SlotWish::AnyPort)
                .await
                .unwrap()
                .circuit
                .id,
        );
    }
    open(store, &new, SlotWish::Port(20001)).await.unwrap();
    lose(store, &old).await;
    let moved = store
        .move_circuits(old.id, new.id, &ids, &lost())
        .await
        .unwrap();
    let mut ports: Vec<_> = moved.iter().map(|one| one.arrived.circuit.port).collect();
    ports.sort_unstable();
    assert_eq!(ports, [Some(20000), Some(20002)]);
    let stayed = store.worker_circuits(old.id).await.unwrap().unwrap();
    assert_eq!(stayed.circuits.len(), 1);
    lose(store, &new).await;
    let nowhere = store.move_circuits(old.id, new.id, &ids, &lost()).await;
    assert_eq!(nowhere.unwrap(), []);
}

pub(super) async fn silent_nodes_no_longer_count(bench: Bench) {
    let store = &*bench.store;
    let node = |node: &str| Registration {
        node_id: Some(node.to_owned()),
        ..port_worker("w", (20000, 20009))
    };
    let worker = register(store, &node("one")).await;
    assert_eq!(register(store, &node("two")).await.nodes, 2);
    let anonymous = register(store, &port_worker("v", (20000, 20009))).await;
    let since = Utc::now();
    assert_eq!(
        store
            .forget_nodes(since - Duration::from_secs(60))
            .await
            .unwrap(),
        0
    );
    let loud = store
        .heartbeat(worker.id, Some("two"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(loud.nodes, 2);
    assert_eq!(bench.other.forget_nodes(since).await.unwrap(), 1);
    assert_eq!(store.forget_nodes(since).await.unwrap(), 0);
    let nodes = async |id| store.worker(id).await.unwrap().unwrap().nodes;
    assert_eq!((nodes(worker.id).await, nodes(anonymous.id).await), (1, 1));
    // One that was only cut off counts again when it is heard.
    let back = store
        .heartbeat(worker.id, Some("one"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((back.nodes, nodes(worker.id).await), (2, 2));
    assert_eq!(store.forget_nodes(Utc::now()).await.unwrap(), 2);
    assert_eq!(
        nodes(worker.id).await,
        1,
        "by a heartbeat without a name it lives"
    );
    // The last known node leaves, and no phantom keeps the worker alive.
    store.heartbeat(worker.id, Some("one")).await.unwrap();
    let left = store
        .leave_worker(worker.id, Some("one"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((left.nodes, left.status), (0, WorkerStatus::Lost));
}

pub(super) async fn one_holder_at_a_time(bench: Bench) {
    let long = Duration::from_secs(60);
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let take = async |store: &dyn Store, holder, length| {
        store.take_lease("work", holder, length).await.unwrap()
    };
    assert!(take(&*bench.store, one, long).await);
    assert!(take(&*bench.store, one, long).await, "renewed");
    if !matches!(bench.place, Place::Server(_)) {
        return;
    }
    assert!(!take(&*bench.other, two, long).await);
    assert!(
        bench
            .other
            .take_lease("other work", two, long)
            .await
            .unwrap()
    );
    bench.other.release_lease("work", two).await.unwrap();
    assert!(
        !take(&*bench.other, two, long).await,
        "another's is not given back"
    );
    bench.store.release_lease("work", one).await.unwrap();
    assert!(take(&*bench.other, two, Duration::from_millis(50)).await);
    eventually("an old lease ends", Duration::from_secs(5), async || {
        anyhow::ensure!(take(&*bench.store, one, long).await);
        Ok(())
    })
    .await
    .unwrap();
}
