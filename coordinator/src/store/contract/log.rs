//! Generations and the log of events.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_common::event::Change;
use patchbay_common::id::WorkerId;

use super::{Bench, asked, open, port_worker};
use crate::store::SlotWish;

fn soon() -> DateTime<Utc> {
    Utc::now() + Duration::from_secs(5)
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

pub(super) async fn events_add_up_to_the_circuits(bench: Bench) {
    let store = &*bench.store;
    let worker = store
        .register_worker(&port_worker("w", (20000, 20031)))
        .await
        .unwrap();
    let mut dice = Dice(7);
    let mut held = Vec::new();
    for step in 0..120_u64 {
        let chosen = if step % 2 == 0 {
            &bench.store
        } else {
            &bench.other
        };
        let generation = if held.is_empty() || (held.len() < 32 && dice.throw(5) < 3) {
            let opened = open(&**chosen, &worker, SlotWish::AnyPort).await.unwrap();
            held.push(opened.circuit.id);
            opened.generation
        } else {
            let id = held.swap_remove(dice.throw(held.len()));
            let closed = chosen.close_circuit(id, &asked("req-2")).await.unwrap();
            closed.unwrap().generation
        };
        assert_eq!(generation, step + 1);
    }
    let events = store
        .events_after(worker.id, 0, 1000)
        .await
        .unwrap()
        .unwrap();
    let mut circuits = BTreeMap::new();
    for (event, expected) in events.iter().zip(1..) {
        assert_eq!((event.worker, event.generation), (worker.id, expected));
        assert_eq!(event.event.authority, "w");
        match &event.event.change {
            Change::Created(created) => {
                assert_eq!(event.request_id.as_deref(), Some("req-1"));
                circuits.extend(created.iter().map(|c| (c.id, c.clone())));
            }
            Change::Removed(removed) => {
                assert_eq!(event.request_id.as_deref(), Some("req-2"));
                for circuit in removed {
                    assert_eq!(circuits.remove(&circuit.id).as_ref(), Some(circuit));
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let now = store.worker_circuits(worker.id).await.unwrap().unwrap();
    assert_eq!((now.generation, events.len()), (120, 120));
    assert_eq!(store.generation(worker.id).await.unwrap(), 120);
    let listed: BTreeMap<_, _> = now.circuits.into_iter().map(|c| (c.id, c)).collect();
    assert_eq!(listed, circuits);
    assert_eq!(listed.len(), held.len());
}

pub(super) async fn the_log_knows_how_far_it_reaches(bench: Bench) {
    let store = &*bench.store;
    let worker = store
        .register_worker(&port_worker("w", (20000, 20031)))
        .await
        .unwrap();
    let after = async |generation, limit| {
        let events = store
            .events_after(worker.id, generation, limit)
            .await
            .unwrap();
        events.map(|events| events.iter().map(|e| e.generation).collect::<Vec<_>>())
    };
    assert_eq!(after(0, 10).await, Some(vec![]));
    assert_eq!(after(1, 10).await, None, "a generation that never was");
    for _ in 0..5 {
        open(store, &worker, SlotWish::AnyPort).await.unwrap();
    }
    assert_eq!(after(5, 10).await, Some(vec![]));
    assert_eq!(after(2, 10).await, Some(vec![3, 4, 5]));
    assert_eq!(after(2, 2).await, Some(vec![3, 4]));
    assert_eq!(after(u64::MAX, 10).await, None);

    assert_eq!(
        store.prune_events(soon()).await.unwrap(),
        0,
        "none is published"
    );
    store
        .mark_published(&[(worker.id, 1), (worker.id, 2)])
        .await
        .unwrap();
    let long_ago = Utc::now() - Duration::from_secs(3600);
    assert_eq!(store.prune_events(long_ago).await.unwrap(), 0);
    assert_eq!(store.prune_events(soon()).await.unwrap(), 2);
    assert_eq!(after(0, 10).await, None);
    assert_eq!(after(1, 10).await, None);
    assert_eq!(after(2, 10).await, Some(vec![3, 4, 5]));
    // A hole in the middle is as bad as a missing beginning.
    store.mark_published(&[(worker.id, 4)]).await.unwrap();
    assert_eq!(store.prune_events(soon()).await.unwrap(), 1);
    assert_eq!(after(2, 10).await, None);
    assert_eq!(after(2, 1).await, Some(vec![3]));
    assert_eq!(after(4, 10).await, Some(vec![5]));
    // So is a missing end.
    store.mark_published(&[(worker.id, 5)]).await.unwrap();
    assert_eq!(store.prune_events(soon()).await.unwrap(), 1);
    assert_eq!(after(4, 10).await, None);
    assert_eq!(after(5, 10).await, Some(vec![]));
}

pub(super) async fn events_are_published_once(bench: Bench) {
    let store = &*bench.store;
    let mut expected = Vec::new();
    for authority in ["a", "b"] {
        let worker = store
            .register_worker(&port_worker(authority, (20000, 20031)))
            .await
            .unwrap();
        for generation in 1..=3 {
            open(store, &worker, SlotWish::AnyPort).await.unwrap();
            expected.push((worker.id, generation));
        }
    }
    let waiting = async |limit| -> Vec<(WorkerId, u64)> {
        let events = bench.other.unpublished(soon(), limit).await.unwrap();
        events.iter().map(|e| (e.worker, e.generation)).collect()
    };
    assert_eq!(waiting(100).await, expected, "oldest first");
    assert_eq!(waiting(2).await, expected[..2]);
    let long_ago = Utc::now() - Duration::from_secs(3600);
    assert_eq!(store.unpublished(long_ago, 100).await.unwrap(), []);
    store.mark_published(&[]).await.unwrap();
    store
        .mark_published(&[expected[0], expected[4]])
        .await
        .unwrap();
    store.mark_published(&[expected[0]]).await.unwrap();
    let left = [expected[1], expected[2], expected[3], expected[5]];
    assert_eq!(waiting(100).await, left);
}

pub(super) async fn acknowledgements_only_grow(bench: Bench) {
    let store = &*bench.store;
    let worker = store
        .register_worker(&port_worker("w", (20000, 20031)))
        .await
        .unwrap();
    assert_eq!(store.acknowledged(worker.id).await.unwrap(), 0);
    for _ in 0..4 {
        open(store, &worker, SlotWish::AnyPort).await.unwrap();
    }
    for (said, kept) in [(2, 2), (1, 2), (3, 3), (u64::MAX, 4)] {
        store.acknowledge(worker.id, said).await.unwrap();
        assert_eq!(bench.other.acknowledged(worker.id).await.unwrap(), kept);
    }
    // Nobody's acknowledgement is nobody's business.
    store.acknowledge(WorkerId::random(), 1).await.unwrap();
    assert_eq!(store.acknowledged(WorkerId::random()).await.unwrap(), 0);
}
