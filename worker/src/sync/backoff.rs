//! Patience: how long to wait between attempts, and how often to speak of failing ones.

use std::fmt::Display;
use std::time::Duration;

use uuid::Uuid;

/// Waits that double from `first` to `most`, each shortened at random by up to half so that
/// workers do not come back in step.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// How long to wait now.
    pub(super) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        shorten(wait, 0.5)
    }

    /// It worked: begin anew.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// `wait`, less a random share of it of at most `share`.
pub(super) fn shorten(wait: Duration, share: f64) -> Duration {
    let random = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    wait.mul_f64(1.0 - share * random)
}

/// Speaks of an outage once when it begins and once when it ends.
#[derive(Debug)]
pub(super) struct Outage {
    what: &'static str,
    failures: u64,
}

impl Outage {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, failures: 0 }
    }

    pub(super) fn failed(&mut self, cause: &dyn Display) {
        self.failures += 1;
        if self.failures == 1 {
            log::warn!("{} failed, retrying: {cause}", self.what);
        } else {
            log::debug!("{} failed again ({}): {cause}", self.what, self.failures);
        }
    }

    pub(super) fn over(&mut self) {
        if self.failures > 0 {
            log::info!("{} works again after {} failures", self.what, self.failures);
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_begin_anew() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second / 4, second);
        for longest in [second / 4, second / 2, second, second] {
            let wait = backoff.wait();
            assert!(wait <= longest && wait >= longest / 2, "{wait:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= second / 4);
    }
}
