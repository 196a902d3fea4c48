//! Who is on a circuit by which grant, and which grants count no more. Both are kept under one
//! lock, so that nobody is admitted between the revocation of a grant and the end of what it
//! carries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use patchbay_common::grant::{Grant, Revocations};
use tokio_util::sync::CancellationToken;

/// Holds known before those that nobody has any more are looked for.
const SWEEP: usize = 64;

/// The name of all who need no grant: connections of TCP circuits, visitors of public ones.
const NOBODY: &str = "";

/// What the requests of one grant end by. Lives as long as one of them.
#[derive(Debug)]
pub struct Hold {
    given: Option<u64>,
    stop: CancellationToken,
}

impl Hold {
    /// Cancelled when the grant is revoked, or the circuit closes.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}

/// A circuit's grants; shared by all states of the circuit.
#[derive(Debug)]
pub struct Grants {
    closed: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    revoked: Revocations,
    held: HashMap<Box<str>, Arc<Hold>, ahash::RandomState>,
    sweep_at: usize,
}

impl Grants {
    /// Of a circuit that this cancels when it closes.
    pub(super) fn new(closed: CancellationToken) -> Self {
        Self {
            closed,
            state: Mutex::default(),
        }
    }

    /// What a request of this grant ends by; `None` if the grant counts no more at `now` (Unix
    /// seconds).
    pub fn hold(&self, grant: &Grant<'_>, now: u64) -> Option<Arc<Hold>> {
        let mut state = self.state();
        if state.revoked.denies(grant, now) {
            return None;
        }
        Some(state.hold(&grant.name, grant.given, &self.closed))
    }

    /// What a request ends by that needs no grant: only a revocation of all ends it.
    pub fn hold_ungranted(&self) -> Arc<Hold> {
        self.state().hold(NOBODY, None, &self.closed)
    }

    /// Whether a grant counts no more at `now` (Unix seconds).
    pub fn denies(&self, grant: &Grant<'_>, now: u64) -> bool {
        self.state().revoked.denies(grant, now)
    }

    /// Takes over what is revoked, and ends what it carries.
    pub(super) fn revoke(&self, more: &Revocations, now: u64) {
        if more.is_empty() {
            return;
        }
        let mut guard = self.state();
        let state = &mut *guard;
        let before = state.revoked.up_to;
        state.revoked.merge(more, now);
        let (revoked, all) = (&state.revoked, state.revoked.up_to > before);
        state.held.retain(|name, hold| {
            let grant = Grant {
                name: (&**name).into(),
                given: hold.given,
            };
            let over = match &**name {
                NOBODY => all,
                _ => revoked.denies(&grant, now),
            };
            if over {
                hold.stop.cancel();
            }
            !over
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole before the lock is given up, even by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hold(&mut self, name: &str, given: Option<u64>, closed: &CancellationToken) -> Arc<Hold> {
        if let Some(hold) = self.held.get(name) {
            return Arc::clone(hold);
        }
        if self.held.len() >= self.sweep_at.max(SWEEP) {
            self.held.retain(|_, hold| Arc::strong_count(hold) > 1);
            self.sweep_at = self.held.len() * 2;
        }
        let hold = Arc::new(Hold {
            given,
            stop: closed.child_token(),
        });
        self.held.insert(name.into(), Arc::clone(&hold));
        hold
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use patchbay_common::grant::Revocation;

    fn revoked(revocation: Revocation) -> Revocations {
        let mut list = Revocations::default();
        list.add(&revocation, 0).unwrap();
        list
    }

    #[test]
    fn a_revoked_grant_ends_what_it_carries_and_nothing_else() {
        let grants = Grants::new(CancellationToken::new());
        let (one, other) = (Grant::named("one"), Grant::named("other"));
        let (first, second) = (grants.hold(&one, 0), grants.hold(&one, 0));
        let apart = grants.hold(&other, 0).unwrap();
        let ungranted = grants.hold_ungranted();
        grants.revoke(&revoked(Revocation::Name("one".into(), None)), 0);
        assert!(first.unwrap().stop().is_cancelled() && second.unwrap().stop().is_cancelled());
        assert!(!apart.stop().is_cancelled() && !ungranted.stop().is_cancelled());
        assert!(grants.hold(&one, 0).is_none() && grants.hold(&other, 0).is_some());
    }

    #[test]
    fn a_revocation_of_all_ends_all_that_is_and_admits_what_is_given_later() {
        let grants = Grants::new(CancellationToken::new());
        let early = Grant {
            name: "early".into(),
            given: Some(10),
        };
        let held = [grants.hold(&early, 0).unwrap(), grants.hold_ungranted()];
        let list = revoked(Revocation::UpTo(20));
        grants.revoke(&list, 0);
        assert!(held.iter().all(|hold| hold.stop().is_cancelled()));
        assert!(grants.hold(&early, 0).is_none());
        let late = Grant {
            name: "late".into(),
            given: Some(21),
        };
        let late = grants.hold(&late, 0).unwrap();
        // The same news again ends nothing that came since.
        let again = grants.hold_ungranted();
        grants.revoke(&list, 0);
        assert!(!late.stop().is_cancelled() && !again.stop().is_cancelled());
    }

    #[test]
    fn a_closed_circuit_ends_all() {
        let closed = CancellationToken::new();
        let hold = Grants::new(closed.clone()).hold_ungranted();
        closed.cancel();
        assert!(hold.stop().is_cancelled());
    }

    #[test]
    fn grants_nobody_uses_are_forgotten() {
        let grants = Grants::new(CancellationToken::new());
        let kept = grants.hold(&Grant::named("kept"), 0).unwrap();
        for number in 0..10_000 {
            grants.hold(&Grant::named(format!("n{number}")), 0).unwrap();
        }
        assert!(grants.state().held.len() <= SWEEP);
        assert!(Arc::ptr_eq(
            &kept,
            &grants.hold(&Grant::named("kept"), 0).unwrap()
        ));
    }
}
