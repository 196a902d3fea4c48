//! PostgreSQL refuses transactions that got in each other's way; they are made again, once.

use patchbay_common::id::CircuitId;

use super::{Bench, Place, asked, circuit_on, open, port_worker};
use crate::store::{AuditFilter, SlotWish, StoreError};

/// Fails the first `count` writes of events with this state, whatever transaction they are in: a
/// sequence does not go back.
fn refuse(count: u32, state: &str) -> String {
    format!(
        "DROP TRIGGER IF EXISTS refuse ON patchbay_events; DROP SEQUENCE IF EXISTS refusals; \
         CREATE SEQUENCE refusals; CREATE OR REPLACE FUNCTION refuse() RETURNS trigger AS $$ \
         BEGIN IF nextval('refusals') <= {count} THEN RAISE EXCEPTION 'in the way' \
         USING ERRCODE = '{state}'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql; \
         CREATE TRIGGER refuse BEFORE INSERT ON patchbay_events FOR EACH ROW \
         EXECUTE FUNCTION refuse();"
    )
}

#[tokio::test]
async fn what_was_refused_is_done_again_and_only_once() {
    let bench = Bench::in_postgres().await;
    let store = &*bench.store;
    let worker = store
        .register_worker(&port_worker("w", (20000, 20009)))
        .await
        .unwrap();
    let mut held: Vec<CircuitId> = Vec::new();
    for (generation, state) in [(1, "40001"), (3, "40P01")] {
        assert!(bench.behind_its_back(&refuse(3, state)).await);
        let opened = open(store, &worker, SlotWish::AnyPort).await.unwrap();
        assert_eq!(
            (opened.generation, opened.worker.occupied_slots),
            (generation, 1)
        );
        held.push(opened.circuit.id);
        assert!(bench.behind_its_back(&refuse(3, state)).await);
        let closed = store
            .close_circuit(opened.circuit.id, &asked("req-2"))
            .await;
        assert_eq!(closed.unwrap().unwrap().generation, generation + 1);
    }
    let rows = store.audit(&AuditFilter::default(), 100).await.unwrap();
    let told = store
        .events_after(worker.id, 0, 100)
        .await
        .unwrap()
        .unwrap();
    let there = store.worker_circuits(worker.id).await.unwrap().unwrap();
    assert_eq!((rows.len(), told.len(), there.circuits.len()), (4, 4, 0));
    assert!(rows.iter().all(|row| held.contains(&row.circuit)));
}

#[tokio::test]
async fn what_is_refused_for_ever_is_a_failure_that_leaves_nothing() {
    let bench = Bench::in_postgres().await;
    let store = &*bench.store;
    let worker = store
        .register_worker(&port_worker("w", (20000, 20009)))
        .await
        .unwrap();
    assert!(matches!(bench.place, Place::Server(_)));
    assert!(bench.behind_its_back(&refuse(1_000, "40001")).await);
    let new = circuit_on(worker.id, SlotWish::AnyPort);
    let refusal = store.open_circuit(&new).await;
    assert!(
        matches!(refusal, Err(StoreError::Failed { .. })),
        "{refusal:?}"
    );
    let there = store.worker_circuits(worker.id).await.unwrap().unwrap();
    assert_eq!((there.circuits.len(), there.generation), (0, 0));
    let counted = store.worker(worker.id).await.unwrap().unwrap();
    assert_eq!(counted.occupied_slots, 0);
    assert_eq!(store.audit(&AuditFilter::default(), 9).await.unwrap(), []);
}
