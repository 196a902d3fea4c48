//! How long to wait before the next try.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// First wait.
const FIRST: Duration = Duration::from_millis(50);
/// Longest wait for a gateway that cannot be reached: it is found within a second of its return.
const LONGEST: Duration = Duration::from_millis(800);
/// Longest wait after a refusal: an operator has to do something first.
const LONGEST_REFUSED: Duration = Duration::from_secs(30);

/// Waits that grow, each shortened at random so that many agents do not come back at once.
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    /// It worked: the next failure waits briefly again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// The next wait after the gateway could not be reached.
    pub fn unreachable(&mut self) -> Duration {
        self.next(LONGEST)
    }

    /// The next wait after the gateway has refused.
    pub fn refused(&mut self) -> Duration {
        self.next(LONGEST_REFUSED)
    }

    fn next(&mut self, longest: Duration) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.tries.min(16)).min(longest);
        self.tries = self.tries.saturating_add(1);
        // Half of it for certain, the rest by chance.
        let chance = (RandomState::new().hash_one(self.tries) % 1_000) as u32;
        whole / 2 + (whole / 2) * chance / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_bounded() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..20).map(|_| backoff.unreachable()).collect();
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2);
        assert!(
            waits[10..]
                .iter()
                .all(|wait| *wait <= LONGEST && *wait >= LONGEST / 2)
        );
        assert!(backoff.refused() >= LONGEST_REFUSED / 2);
        backoff.reset();
        assert!(backoff.refused() <= FIRST);
    }
}
