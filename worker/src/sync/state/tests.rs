use std::collections::{BTreeMap, VecDeque};

use patchbay_common::circuit::Circuit;
use patchbay_common::event::{Change, CircuitEvent, Message};
use patchbay_common::id::CircuitId;
use uuid::Uuid;

use super::{Ledger, Step, Urgency};
use crate::sync::trial::circuit;
use crate::table::Table;

fn message(generation: Option<u64>, change: Change) -> Message {
    Message {
        event: CircuitEvent {
            authority: "worker-1".into(),
            change,
        },
        source: String::new(),
        generation,
        request_id: None,
    }
}

fn created(generation: u64, circuit: &Circuit) -> Message {
    message(Some(generation), Change::Created(vec![circuit.clone()]))
}

fn removed(generation: u64, circuit: &Circuit) -> Message {
    message(Some(generation), Change::Removed(vec![circuit.clone()]))
}

/// A ledger that knows everything up to `generation`.
fn at(generation: u64) -> Ledger {
    let mut ledger = Ledger::new("worker-1");
    ledger.fetch_begins();
    ledger.fetched(Vec::new(), Some(generation)).unwrap();
    assert_eq!(ledger.urgency(), Urgency::None);
    ledger
}

#[test]
fn the_next_change_is_applied_and_a_gap_is_noticed() {
    let (mut ledger, circuit) = (at(5), circuit(1));
    let next = created(6, &circuit);
    assert!(matches!(ledger.weigh(&next, |_| false), Step::Apply(_)));
    assert_eq!((ledger.known(), ledger.urgency()), (Some(6), Urgency::None));
    let far = removed(8, &circuit);
    assert!(matches!(ledger.weigh(&far, |_| true), Step::Apply(_)));
    assert_eq!(ledger.urgency(), Urgency::Settle);
    assert_eq!((ledger.known(), ledger.lag()), (Some(6), 1));
}

#[test]
fn changes_out_of_order_close_the_gap() {
    let (mut ledger, one, two) = (at(5), circuit(1), circuit(2));
    ledger.weigh(&created(7, &two), |_| false);
    assert_eq!(ledger.urgency(), Urgency::Settle);
    ledger.weigh(&created(6, &one), |_| false);
    assert_eq!((ledger.known(), ledger.urgency()), (Some(7), Urgency::None));
}

#[test]
fn a_late_change_does_not_resurrect() {
    let (mut ledger, one, two) = (at(5), circuit(1), circuit(2));
    ledger.weigh(&removed(7, &one), |_| true);
    let both = message(Some(6), Change::Created(vec![one, two.clone()]));
    assert_eq!(
        ledger.weigh(&both, |_| false),
        Step::Apply(Change::Created(vec![two]))
    );
    assert_eq!(ledger.urgency(), Urgency::Settle);
}

#[test]
fn an_announcement_of_the_present_is_applied_again() {
    let (mut ledger, circuit) = (at(5), circuit(1));
    let again = created(5, &circuit);
    assert!(matches!(ledger.weigh(&again, |_| true), Step::Apply(_)));
    assert_eq!(ledger.urgency(), Urgency::None);
    // The table should have it and has not: only a fetch can tell who is right.
    assert_eq!(ledger.weigh(&again, |_| false), Step::AwaitFetch);
    assert_eq!(ledger.urgency(), Urgency::Now);
}

#[test]
fn an_announcement_does_not_stand_for_the_change_it_is_numbered_like() {
    let (mut ledger, circuit) = (at(5), circuit(1));
    // Change 6 was lost; then somebody opened a known circuit again.
    let again = created(6, &circuit);
    assert!(matches!(ledger.weigh(&again, |_| true), Step::Apply(_)));
    assert_eq!(
        (ledger.known(), ledger.urgency()),
        (Some(5), Urgency::Settle)
    );
}

#[test]
fn the_past_is_passed_over() {
    let (mut ledger, circuit) = (at(5), circuit(1));
    assert_eq!(ledger.weigh(&removed(5, &circuit), |_| true), Step::Ignore);
    assert_eq!(ledger.weigh(&removed(4, &circuit), |_| true), Step::Ignore);
    let routes = Change::RouteUpdated(Box::new(circuit.clone()), Vec::new());
    let routes = message(Some(4), routes);
    assert_eq!(ledger.weigh(&routes, |_| true), Step::Ignore);
    let old = created(4, &circuit);
    assert_eq!(ledger.weigh(&old, |_| true), Step::Acknowledge);
    assert_eq!(ledger.urgency(), Urgency::None);
    assert_eq!(ledger.weigh(&old, |_| false), Step::AwaitFetch);
}

#[test]
fn what_is_meant_for_others_is_passed_over() {
    let (mut ledger, circuit) = (at(5), circuit(1));
    let mut other = created(9, &circuit);
    other.event.authority = "worker-2".into();
    assert_eq!(ledger.weigh(&other, |_| false), Step::Ignore);
    let added = message(Some(9), Change::Added(vec![circuit]));
    assert_eq!(ledger.weigh(&added, |_| false), Step::Ignore);
    assert_eq!(ledger.urgency(), Urgency::None);
}

#[test]
fn changes_without_numbers_are_applied_and_checked_later() {
    let mut ledger = Ledger::new("worker-1");
    ledger.fetch_begins();
    ledger.fetched(Vec::new(), None).unwrap();
    let unnumbered = message(None, Change::Created(vec![circuit(1)]));
    assert!(matches!(
        ledger.weigh(&unnumbered, |_| false),
        Step::Apply(_)
    ));
    assert_eq!(ledger.urgency(), Urgency::Slow);
}

#[test]
fn a_fetch_without_number_does_not_undo_what_came_meanwhile() {
    let (stays, goes, comes) = (circuit(1), circuit(2), circuit(3));
    let mut ledger = Ledger::new("worker-1");
    ledger.fetch_begins();
    ledger.weigh(&message(None, Change::Removed(vec![goes.clone()])), |_| {
        true
    });
    ledger.weigh(&message(None, Change::Created(vec![comes.clone()])), |_| {
        false
    });
    let answer = ledger.fetched(vec![stays.clone(), goes], None).unwrap();
    let mut expected = vec![stays, comes];
    expected.sort_by_key(|circuit| circuit.id);
    assert_eq!(answer, expected);
    assert_eq!(ledger.urgency(), Urgency::Slow);
}

#[test]
fn a_store_that_counts_anew_is_believed() {
    let mut ledger = at(50);
    ledger.hear(Some(3));
    assert_eq!(ledger.urgency(), Urgency::Now);
    ledger.fetch_begins();
    ledger.fetched(Vec::new(), Some(3)).unwrap();
    assert_eq!((ledger.known(), ledger.urgency()), (Some(3), Urgency::None));
}

#[test]
fn a_failed_fetch_leaves_the_doubt() {
    let mut ledger = at(1);
    ledger.fetch_begins();
    ledger.fetch_failed();
    assert_eq!(ledger.urgency(), Urgency::Now);
}

/// SplitMix64: the same course of events for the same seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % below as u64).unwrap()
    }
}

/// A store, messages under way from it, and a worker that hears some of them.
struct World {
    chance: Chance,
    store: BTreeMap<CircuitId, Circuit>,
    generation: u64,
    under_way: VecDeque<Message>,
    /// What a fetch under way will answer: read some time after it began.
    answer: Option<Option<(Vec<Circuit>, u64)>>,
    ledger: Ledger,
    table: Table,
    ports: u16,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            chance: Chance(seed),
            store: BTreeMap::new(),
            generation: 0,
            under_way: VecDeque::new(),
            answer: None,
            ledger: Ledger::new("worker-1"),
            table: Table::new(),
            ports: 0,
        }
    }

    fn step(&mut self) {
        match self.chance.next(10) {
            0..=2 => self.change(),
            3..=5 => self.deliver(),
            6 => self.disturb(),
            7 => self.ledger.hear(Some(self.generation)),
            8 => self.read(),
            _ => self.finish_or_begin(),
        }
        self.check();
    }

    fn any(&mut self) -> Option<Circuit> {
        let count = self.store.len();
        let nth = (count > 0).then(|| self.chance.next(count))?;
        self.store.values().nth(nth).cloned()
    }

    fn change(&mut self) {
        let change = match (self.chance.next(4), self.any()) {
            (0, Some(circuit)) => Change::Removed(vec![circuit]),
            (1, Some(mut circuit)) => {
                circuit.route_info[0].kernel_port += 1;
                let routes = circuit.route_info.clone();
                Change::RouteUpdated(Box::new(circuit), routes)
            }
            (2, Some(circuit)) => {
                let again = created(self.generation, &circuit);
                return self.under_way.push_back(again);
            }
            _ => {
                self.ports += 1;
                let mut new = circuit(self.ports);
                // The same for the same seed, so that a failure can be looked at.
                new.id = CircuitId(Uuid::from_u128(u128::from(self.ports)));
                Change::Created(vec![new])
            }
        };
        super::overlay(&mut self.store, change.clone());
        self.generation += 1;
        self.under_way
            .push_back(message(Some(self.generation), change));
    }

    fn deliver(&mut self) {
        let Some(message) = self.under_way.pop_front() else {
            return;
        };
        let has = |id| self.table.by_id(id).is_some();
        if let Step::Apply(change) = self.ledger.weigh(&message, has) {
            self.table.apply(&change);
        }
    }

    /// Loses, doubles or delays a message.
    fn disturb(&mut self) {
        let Some(message) = self.under_way.pop_front() else {
            return;
        };
        match self.chance.next(4) {
            0 => {}
            1 => {
                self.under_way.push_front(message.clone());
                self.under_way.push_back(message);
            }
            _ => {
                let at = self.chance.next(self.under_way.len() + 1);
                self.under_way.insert(at, message);
            }
        }
    }

    /// The coordinator reads its store for the fetch under way.
    fn read(&mut self) {
        if self.answer == Some(None) {
            let circuits = self.store.values().cloned().collect();
            self.answer = Some(Some((circuits, self.generation)));
        }
    }

    fn finish_or_begin(&mut self) {
        match self.answer.take() {
            Some(Some((circuits, generation))) => {
                if let Some(all) = self.ledger.fetched(circuits, Some(generation)) {
                    self.table.replace(all);
                }
            }
            Some(None) => self.ledger.fetch_failed(),
            None if self.ledger.urgency() > Urgency::None => {
                self.ledger.fetch_begins();
                self.answer = Some(None);
            }
            None => {}
        }
    }

    fn table(&self) -> BTreeMap<CircuitId, Circuit> {
        let all = self.table.all().into_iter();
        all.map(|live| (live.circuit.id, live.circuit.clone()))
            .collect()
    }

    /// Whoever believes to know everything does.
    fn check(&self) {
        let sure = self.ledger.urgency() == Urgency::None;
        if sure && self.answer.is_none() && self.ledger.known() == Some(self.generation) {
            assert_eq!(self.table(), self.store);
        }
    }

    fn settle(&mut self) {
        self.ledger.hear(Some(self.generation));
        for _ in 0..8 {
            while !self.under_way.is_empty() {
                self.deliver();
            }
            self.read();
            self.finish_or_begin();
            self.check();
        }
    }
}

#[test]
fn whatever_is_lost_doubled_or_late_the_table_ends_as_the_store() {
    for seed in 0..500 {
        let mut world = World::new(seed);
        for _ in 0..200 {
            world.step();
        }
        world.settle();
        assert_eq!(world.ledger.urgency(), Urgency::None, "seed {seed}");
        assert_eq!(world.table(), world.store, "seed {seed}");
    }
}
