//! The one place that decides what a message means: apply it, acknowledge it, ask for everything,
//! or pass it over.
//!
//! The coordinator counts the changes of a worker's circuits. The ledger knows up to which number
//! the table holds every change (`known`), which later ones it holds as well (two coordinators on
//! one Redis do not publish in order), and the highest number anybody has named. From these it
//! tells whether something is missing. It does no work itself, so all of it can be tested.
//!
//! One thing makes this less simple than counting: a circuit that is opened again is announced
//! again, under the number of the latest change, which may have been quite another. Such a message
//! must not stand for the change it is numbered like. It is told by its circuits being known.

use std::collections::BTreeMap;

use patchbay_common::circuit::Circuit;
use patchbay_common::event::{Change, Message};
use patchbay_common::id::CircuitId;

/// Most changes remembered out of order, or during one fetch; beyond, everything is fetched.
const REMEMBERED: usize = 4_096;

/// What to do with a message.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Apply this to the table. If it is a creation, acknowledge it once the table has its
    /// circuits.
    Apply(Change),
    /// The table has its circuits already: only acknowledge.
    Acknowledge,
    /// It names circuits the table should have and has not: acknowledge them if the next fetch
    /// brings them.
    AwaitFetch,
    /// Nothing.
    Ignore,
}

/// How soon everything must be fetched again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// The table is as good as what has been heard.
    None,
    /// Changes came without numbers: one of them may have been lost.
    Slow,
    /// A change is missing; it may be about to arrive.
    Settle,
    /// The table is known to be wrong, or cannot be known to be right.
    Now,
}

/// What is known of the table's state.
#[derive(Debug)]
pub(super) struct Ledger {
    authority: String,
    known: Option<u64>,
    /// Changes beyond `known` that the table has, with the circuits they touch.
    ahead: BTreeMap<u64, Touch>,
    told: Option<u64>,
    unnumbered: bool,
    doubt: bool,
    fetch: Option<Fetch>,
}

/// Which circuits a change is about, and whether it says that it made them.
#[derive(Debug, PartialEq)]
struct Touch {
    created: bool,
    circuits: Vec<CircuitId>,
}

impl Touch {
    fn of(change: &Change) -> Self {
        Self {
            created: matches!(change, Change::Created(_)),
            circuits: touched(change),
        }
    }
}

/// What was heard while a fetch is under way: its answer may be older or newer.
#[derive(Debug, Default)]
struct Fetch {
    applied: Vec<(Option<u64>, Change)>,
    told: Option<u64>,
    overflowed: bool,
}

impl Ledger {
    pub(super) fn new(authority: &str) -> Self {
        Self {
            authority: authority.to_owned(),
            known: None,
            ahead: BTreeMap::new(),
            told: None,
            unnumbered: false,
            doubt: true,
            fetch: None,
        }
    }

    /// Up to which generation the table holds every change.
    pub(super) fn known(&self) -> Option<u64> {
        self.known
    }

    /// By how many generations the table lags behind what has been heard.
    pub(super) fn lag(&self) -> u64 {
        let highest = self.told.unwrap_or(0);
        highest
            .saturating_sub(self.known.unwrap_or(0))
            .saturating_sub(self.ahead.len() as u64)
    }

    /// How soon everything must be fetched.
    pub(super) fn urgency(&self) -> Urgency {
        if self.doubt {
            Urgency::Now
        } else if self.told > self.known {
            Urgency::Settle
        } else if self.unnumbered {
            Urgency::Slow
        } else {
            Urgency::None
        }
    }

    /// Whatever the table holds may be wrong: messages may have been lost.
    pub(super) fn doubt(&mut self) {
        self.doubt = true;
    }

    /// The coordinator named its current generation; `None` from one that does not count.
    pub(super) fn hear(&mut self, generation: Option<u64>) {
        if generation < self.known {
            // Another store, or one restored from a backup: numbers mean nothing now.
            self.doubt = true;
            return;
        }
        self.told = self.told.max(generation);
        if let Some(fetch) = &mut self.fetch {
            fetch.told = fetch.told.max(generation);
        }
    }

    /// Decides about a message; `has` tells whether the table has a circuit.
    pub(super) fn weigh(&mut self, message: &Message, has: impl Fn(CircuitId) -> bool) -> Step {
        let change = &message.event.change;
        if message.event.authority != self.authority || matches!(change, Change::Added(_)) {
            return Step::Ignore;
        }
        let Some(generation) = message.generation else {
            self.unnumbered = true;
            return self.apply(None, change.clone());
        };
        let Some(known) = self.known else {
            self.hear(Some(generation));
            self.doubt = true;
            return self.apply(Some(generation), change.clone());
        };
        let again = matches!(change, Change::Created(_)) && touched(change).into_iter().all(has);
        if generation > known {
            self.hear(Some(generation));
        }
        if again {
            let present = generation >= known && self.ahead.range(generation..).next().is_none();
            return if present {
                self.apply(Some(generation), change.clone())
            } else {
                Step::Acknowledge
            };
        }
        if generation <= known || self.ahead.contains_key(&generation) {
            return self.weigh_again(generation, change);
        }
        let narrowed = self.unless_touched_later(generation, change);
        // A creation after a later change of the same circuit may be no creation but a late
        // announcement: its number stays open, and a fetch will tell.
        if !matches!(change, Change::Created(_)) || narrowed == *change {
            self.record(generation, Touch::of(change));
        }
        self.apply(Some(generation), narrowed)
    }

    /// Decides about a change whose number the table holds already.
    fn weigh_again(&mut self, generation: u64, change: &Change) -> Step {
        let taken = self.ahead.get(&generation);
        if taken.is_some_and(|taken| *taken != Touch::of(change)) {
            // Two changes of one number: an announcement stood for the change.
            self.doubt = true;
        }
        if matches!(change, Change::Created(_)) {
            self.doubt = true;
            Step::AwaitFetch
        } else {
            Step::Ignore
        }
    }

    /// A fetch begins: its answer will hold at least what was known when this is called.
    pub(super) fn fetch_begins(&mut self) {
        self.doubt = false;
        self.unnumbered = false;
        self.fetch = Some(Fetch::default());
    }

    /// The fetch failed.
    pub(super) fn fetch_failed(&mut self) {
        self.fetch = None;
        self.doubt = true;
    }

    /// The fetch answered. Returns what the table should hold: the answer, and on it the changes
    /// that were applied meanwhile and that it is too old to include. `None` if too many were.
    pub(super) fn fetched(
        &mut self,
        circuits: Vec<Circuit>,
        generation: Option<u64>,
    ) -> Option<Vec<Circuit>> {
        let fetch = self.fetch.take().unwrap_or_default();
        if fetch.overflowed {
            self.doubt = true;
            return None;
        }
        self.known = generation;
        self.ahead.clear();
        self.told = generation.max(fetch.told);
        let mut circuits: BTreeMap<CircuitId, Circuit> =
            circuits.into_iter().map(|one| (one.id, one)).collect();
        for (number, change) in fetch.applied {
            if number.is_some() && number <= generation {
                continue;
            }
            let again = matches!(change, Change::Created(_))
                && touched(&change).iter().all(|id| circuits.contains_key(id));
            if let (Some(number), Some(_), false) = (number, generation, again) {
                self.record(number, Touch::of(&change));
            }
            overlay(&mut circuits, change);
        }
        Some(circuits.into_values().collect())
    }

    fn apply(&mut self, generation: Option<u64>, change: Change) -> Step {
        if let Some(fetch) = &mut self.fetch {
            if fetch.applied.len() < REMEMBERED {
                fetch.applied.push((generation, change.clone()));
            } else {
                fetch.overflowed = true;
            }
        }
        Step::Apply(change)
    }

    /// The change without the circuits that a later change, already applied, has touched.
    fn unless_touched_later(&self, generation: u64, change: &Change) -> Change {
        let later = |id: CircuitId| {
            self.ahead
                .range(generation..)
                .any(|(_, touch)| touch.circuits.contains(&id))
        };
        let rest = |circuits: &[Circuit]| {
            let rest = circuits.iter().filter(|one| !later(one.id));
            rest.cloned().collect()
        };
        match change {
            Change::Created(circuits) => Change::Created(rest(circuits)),
            Change::Removed(circuits) => Change::Removed(rest(circuits)),
            // Nothing is left of it.
            Change::RouteUpdated(circuit, _) if later(circuit.id) => Change::Removed(Vec::new()),
            other => other.clone(),
        }
    }

    fn record(&mut self, generation: u64, touch: Touch) {
        if self.ahead.len() >= REMEMBERED {
            self.doubt = true;
            return;
        }
        self.ahead.insert(generation, touch);
        while let (Some(known), Some(next)) = (self.known, self.ahead.first_entry()) {
            if *next.key() > known.saturating_add(1) {
                break;
            }
            self.known = Some(known.max(*next.key()));
            next.remove();
        }
    }
}

/// The circuits a change is about.
pub(super) fn touched(change: &Change) -> Vec<CircuitId> {
    match change {
        Change::Created(circuits) | Change::Added(circuits) | Change::Removed(circuits) => {
            circuits.iter().map(|circuit| circuit.id).collect()
        }
        Change::RouteUpdated(circuit, _) => vec![circuit.id],
    }
}

fn overlay(circuits: &mut BTreeMap<CircuitId, Circuit>, change: Change) {
    match change {
        Change::Created(created) => {
            circuits.extend(created.into_iter().map(|circuit| (circuit.id, circuit)));
        }
        Change::Removed(removed) => {
            for circuit in removed {
                circuits.remove(&circuit.id);
            }
        }
        Change::RouteUpdated(circuit, routes) => {
            let (check, revoked) = (circuit.health_check.clone(), circuit.revocations.clone());
            let known = circuits.entry(circuit.id).or_insert(*circuit);
            known.route_info = routes;
            known.health_check = check;
            known.revocations = revoked;
        }
        Change::Added(_) => {}
    }
}

#[cfg(test)]
mod tests;
