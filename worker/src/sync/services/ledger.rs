//! Decides what a message about services means. It does no work itself, so all of it can be tested.
//!
//! A change says how a service is since a generation, whole; so changes may come in any order, and
//! what is newer holds. The numbers only tell whether one is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use patchbay_common::gateway::{Origin, Published};

/// Most changes remembered out of order; beyond, everything is fetched.
const REMEMBERED: usize = 4_096;

/// How soon everything must be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// What is known is as good as what has been heard.
    None,
    /// A change is missing; it may be about to arrive.
    Settle,
    /// What is known may be wrong.
    Now,
}

/// What is known.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Services, and for as long as an older change may still come, those that are gone.
    slots: BTreeMap<(Origin, String), Published>,
    /// Every change up to here is in.
    known: Option<u64>,
    /// Changes beyond that are in too.
    ahead: BTreeSet<u64>,
    /// The highest generation anybody has named.
    told: u64,
    doubt: bool,
    /// What was known when the fetch under way began; `None` if there is none.
    asked_at: Option<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            slots: BTreeMap::new(),
            known: None,
            ahead: BTreeSet::new(),
            told: 0,
            doubt: true,
            asked_at: None,
        }
    }
}

impl Ledger {
    pub(super) fn known(&self) -> Option<u64> {
        self.known
    }

    /// The services there are.
    pub(super) fn services(&self) -> Arc<[Published]> {
        let there = self.slots.values().filter(|one| one.definition.is_some());
        there.cloned().collect()
    }

    pub(super) fn urgency(&self) -> Urgency {
        match self.known {
            _ if self.doubt => Urgency::Now,
            Some(known) if self.told > known => Urgency::Settle,
            _ => Urgency::None,
        }
    }

    /// Whatever is known may be wrong: messages may have been lost.
    pub(super) fn doubt(&mut self) {
        self.doubt = true;
    }

    /// The coordinator named its generation.
    pub(super) fn hear(&mut self, generation: u64) {
        if self.known.is_some_and(|known| generation < known) {
            // Another store, or one restored from a backup, or only an answer that was overtaken.
            self.doubt = true;
        }
        self.told = self.told.max(generation);
    }

    /// Takes a change in; answers whether anything is different now.
    pub(super) fn weigh(&mut self, change: Published) -> bool {
        let generation = change.generation;
        if self.known.is_some_and(|known| generation <= known) {
            return false;
        }
        self.told = self.told.max(generation);
        if self.ahead.len() >= REMEMBERED {
            self.doubt = true;
            return false;
        }
        self.ahead.insert(generation);
        let changed = self.put(change);
        self.advance();
        changed
    }

    fn put(&mut self, change: Published) -> bool {
        let key = (change.origin.clone(), change.name.clone());
        let before = self.slots.get(&key);
        if before.is_some_and(|before| before.generation >= change.generation) {
            return false;
        }
        let same =
            before.and_then(|before| before.definition.as_ref()) == change.definition.as_ref();
        self.slots.insert(key, change);
        !same
    }

    fn advance(&mut self) {
        let Some(mut known) = self.known else { return };
        while let Some(next) = self.ahead.first().copied()
            && next <= known + 1
        {
            known = known.max(next);
            self.ahead.pop_first();
        }
        self.known = Some(known);
        // An answer under way may still hold what is gone.
        let floor = self.asked_at.unwrap_or(known);
        self.slots
            .retain(|_, one| one.definition.is_some() || one.generation > floor);
    }

    pub(super) fn fetch_begins(&mut self) {
        self.doubt = false;
        self.asked_at = Some(self.known.unwrap_or(0));
    }

    pub(super) fn fetch_failed(&mut self) {
        self.asked_at = None;
        self.doubt = true;
    }

    /// The list, as it was at a generation; answers whether anything is different now.
    pub(super) fn fetched(&mut self, list: Vec<Published>, generation: u64) -> bool {
        let before = self.services();
        let asked_at = self.asked_at.take();
        let slots = list.into_iter().map(|one| {
            let key = (one.origin.clone(), one.name.clone());
            (key, one)
        });
        let old = std::mem::replace(&mut self.slots, slots.collect());
        if asked_at.is_some_and(|known| generation < known) {
            // The store has gone back: numbers beyond its own mean nothing.
            self.ahead.clear();
            self.known = Some(generation);
            self.told = generation;
        } else {
            // The answer may be older than what came meanwhile.
            for (_, one) in old {
                if one.generation > generation {
                    self.put(one);
                }
            }
            self.known = self.known.max(Some(generation));
            self.told = self.told.max(generation);
        }
        self.advance();
        self.services() != before
    }
}

#[cfg(test)]
mod tests {
    use patchbay_common::gateway::Definition;

    use super::*;

    fn change(generation: u64, name: &str, there: bool) -> Published {
        Published {
            name: name.into(),
            origin: Origin::Api,
            generation,
            definition: there.then(Definition::default),
            request_id: None,
        }
    }

    fn names(ledger: &Ledger) -> String {
        let services = ledger.services();
        let names: Vec<&str> = services.iter().map(|one| one.name.as_str()).collect();
        names.join(" ")
    }

    fn at(generation: u64, names: &[&str]) -> Ledger {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.urgency(), Urgency::Now);
        ledger.fetch_begins();
        let list = names.iter().map(|name| change(1, name, true)).collect();
        ledger.fetched(list, generation);
        assert_eq!(ledger.urgency(), Urgency::None);
        ledger
    }

    #[test]
    fn a_missing_change_is_waited_for_and_then_fetched() {
        let mut ledger = at(5, &["a"]);
        assert!(ledger.weigh(change(7, "c", true)));
        assert_eq!(ledger.urgency(), Urgency::Settle);
        assert!(ledger.weigh(change(6, "b", true)));
        assert_eq!((ledger.urgency(), ledger.known()), (Urgency::None, Some(7)));
        assert!(!ledger.weigh(change(6, "b", false)), "it is old");
        ledger.hear(9);
        assert_eq!(ledger.urgency(), Urgency::Settle);
        ledger.fetch_begins();
        assert!(ledger.fetched(vec![change(9, "z", true)], 9));
        assert_eq!((names(&ledger).as_str(), ledger.known()), ("z", Some(9)));
    }

    #[test]
    fn what_is_newer_holds_in_whichever_order_it_comes() {
        let mut ledger = at(1, &["a"]);
        assert!(ledger.weigh(change(4, "a", false)));
        assert!(!ledger.weigh(change(2, "a", true)), "it is gone since 4");
        assert_eq!(names(&ledger), "");
        ledger.weigh(change(3, "b", true));
        assert_eq!((names(&ledger).as_str(), ledger.known()), ("b", Some(4)));
        assert!(ledger.slots.len() == 1, "nothing older can come");
    }

    #[test]
    fn an_answer_that_was_overtaken_takes_nothing_back() {
        let mut ledger = at(1, &["a"]);
        ledger.fetch_begins();
        ledger.weigh(change(2, "b", true));
        ledger.weigh(change(3, "a", false));
        assert!(!ledger.fetched(vec![change(1, "a", true)], 1));
        assert_eq!((names(&ledger).as_str(), ledger.known()), ("b", Some(3)));
    }

    #[test]
    fn a_store_that_went_back_is_followed() {
        let mut ledger = at(50, &["a", "b"]);
        ledger.hear(3);
        assert_eq!(ledger.urgency(), Urgency::Now);
        ledger.fetch_begins();
        assert!(ledger.fetched(vec![change(2, "a", true)], 3));
        assert_eq!((names(&ledger).as_str(), ledger.known()), ("a", Some(3)));
        assert!(ledger.weigh(change(4, "c", true)));
        assert_eq!(ledger.urgency(), Urgency::None);
    }

    #[test]
    fn a_failed_fetch_is_tried_again_and_changes_before_the_first_count() {
        let mut ledger = Ledger::default();
        ledger.fetch_begins();
        assert!(ledger.weigh(change(8, "c", true)));
        ledger.fetch_failed();
        assert_eq!(ledger.urgency(), Urgency::Now);
        ledger.fetch_begins();
        assert!(ledger.fetched(vec![change(2, "a", true)], 7));
        assert_eq!((names(&ledger).as_str(), ledger.known()), ("a c", Some(8)));
    }
}
