//! When a request may be sent a second time, and how often that may happen.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::time::Instant;

/// One retry in the account's units.
const RETRY: u32 = 1_000;
/// Retries a fresh account has.
const START: u32 = 10 * RETRY;
/// Retries an account can hold.
const FULL: u32 = 100 * RETRY;
/// Milliseconds after which one is granted whatever the account says, so that a circuit with
/// little traffic is not without any for ever.
const GRANTED_EVERY: u64 = 1_000;

/// Whether a request that failed may be sent again: nothing of it has left, or its method promises
/// that twice does no more than once (RFC 9110 §9.2.2) and nothing of an answer has come.
pub fn may_retry(method: &str, sent: bool, answered: bool) -> bool {
    let idempotent = matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
    );
    !answered && (!sent || idempotent)
}

/// An account that requests pay into and retries draw on, so that a failing app is not asked a
/// multiple of what its clients ask.
#[derive(Debug)]
pub struct RetryBudget {
    account: AtomicU32,
    /// Milliseconds after `origin` of the last retry that was granted on an empty account.
    granted: AtomicU64,
    origin: Instant,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            account: AtomicU32::new(START),
            granted: AtomicU64::new(0),
            origin: Instant::now(),
        }
    }
}

impl RetryBudget {
    /// A request came; `ratio` retries are granted for it.
    pub fn deposit(&self, ratio: f64) {
        let before = self.account.load(Ordering::Relaxed);
        if before < FULL {
            let share = (ratio * f64::from(RETRY)) as u32;
            self.account.fetch_add(share, Ordering::Relaxed);
        }
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&self) -> bool {
        let take = |account: u32| account.checked_sub(RETRY);
        if self
            .account
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
        {
            return true;
        }
        let now = self.origin.elapsed().as_millis() as u64;
        let last = self.granted.load(Ordering::Relaxed);
        now >= last + GRANTED_EVERY
            && self
                .granted
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_what_does_no_harm_is_sent_twice() {
        assert!(may_retry("POST", false, false));
        assert!(!may_retry("POST", true, false));
        assert!(may_retry("PUT", true, false));
        assert!(!may_retry("GET", true, true));
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_part_of_the_requests() {
        let budget = RetryBudget::default();
        let granted = (0..100).filter(|_| budget.withdraw()).count();
        assert_eq!(granted, 10);
        for _ in 0..50 {
            budget.deposit(0.2);
        }
        let granted = (0..100).filter(|_| budget.withdraw()).count();
        assert_eq!(granted, 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(budget.withdraw());
        assert!(!budget.withdraw());
    }
}
