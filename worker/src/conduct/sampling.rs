//! Which requests have a line in the access log: all, unless the operator asks for fewer. What went
//! wrong or took long always has one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The operator's wish.
#[derive(Debug, Default)]
pub struct Sampling {
    every: u64,
    slow: Option<Duration>,
    seen: AtomicU64,
}

impl Sampling {
    /// One line for so many requests that went well, and one for each that took longer than `slow`.
    pub fn new(every: u64, slow: Duration) -> Self {
        Self {
            every: every.max(1),
            slow: (!slow.is_zero()).then_some(slow),
            seen: AtomicU64::new(0),
        }
    }

    /// Whether a request took long.
    pub fn is_slow(&self, duration: Duration) -> bool {
        self.slow.is_some_and(|slow| duration >= slow)
    }

    /// Whether a request has a line.
    pub(super) fn wants(&self, status: u16, failed: bool, duration: Duration) -> bool {
        let went_well = (200..500).contains(&status) && !failed && !self.is_slow(duration);
        !went_well
            || self.every <= 1
            || self
                .seen
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_so_many_and_all_that_is_remarkable() {
        let second = Duration::from_secs(1);
        let sampling = Sampling::new(10, second);
        let quick = Duration::from_millis(1);
        let lines = |status, failed, duration| {
            let wanted = (0..100).filter(|_| sampling.wants(status, failed, duration));
            wanted.count()
        };
        assert_eq!(lines(200, false, quick), 10);
        assert_eq!(lines(404, false, quick), 10);
        assert_eq!(lines(502, false, quick), 100);
        assert_eq!(lines(200, true, quick), 100);
        assert_eq!(lines(0, false, quick), 100);
        assert_eq!(lines(101, false, quick), 100);
        assert_eq!(lines(200, false, second), 100);
        let all = Sampling::new(1, Duration::ZERO);
        assert!((0..10).all(|_| all.wants(200, false, second)) && !all.is_slow(second));
    }
}
