//! The time-outs of one exchange. They are off unless somebody asks for them, for the worker or
//! for an app: a live stream may be silent for as long as it likes. Where they are on, a task
//! watches beside the exchange, whichever engine carries it, and stops it by its token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Patience;

/// Which time-out fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeOut {
    /// The app did not begin its answer.
    FirstByte,
    /// Nothing moved, in either direction.
    Idle,
    /// The exchange as a whole took too long.
    Total,
}

impl TimeOut {
    const ALL: [Self; 3] = [Self::FirstByte, Self::Idle, Self::Total];

    /// Its word in metrics.
    pub fn kind(self) -> &'static str {
        match self {
            Self::FirstByte => "first_byte_timeout",
            Self::Idle => "idle_timeout",
            Self::Total => "total_timeout",
        }
    }
}

/// What moves an exchange tells this of it.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<State>);

#[derive(Debug)]
struct State {
    begun: Instant,
    /// Milliseconds from there to the last time anything moved.
    moved: AtomicU64,
    answered: AtomicBool,
    /// 0, or one more than the place of the time-out that fired.
    fired: AtomicU8,
    wake: Notify,
}

impl Pulse {
    /// Something moved.
    pub fn moved(&self) {
        let since = self.0.begun.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.0.moved.store(since, Ordering::Relaxed);
    }

    /// The app has begun its answer.
    pub fn answered(&self) {
        self.moved();
        if !self.0.answered.swap(true, Ordering::Release) {
            self.0.wake.notify_one();
        }
    }
}

/// The watch over one exchange.
#[derive(Debug)]
pub struct Pace {
    pulse: Pulse,
    stop: CancellationToken,
    _watch: AbortOnDropHandle<()>,
}

impl Pace {
    /// Watches over an exchange that also ends when `stop` is cancelled; `None` if there is
    /// nothing to watch for.
    pub fn begin(patience: &Patience, stop: &CancellationToken) -> Option<Self> {
        let given = [patience.first_byte, patience.idle, patience.total];
        given.into_iter().flatten().next()?;
        let pulse = Pulse(Arc::new(State {
            begun: Instant::now(),
            moved: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            fired: AtomicU8::new(0),
            wake: Notify::new(),
        }));
        let stop = stop.child_token();
        let watching = watch(pulse.clone(), *patience, stop.clone());
        Some(Self {
            pulse,
            stop,
            _watch: AbortOnDropHandle::new(tokio::spawn(watching)),
        })
    }

    /// Where what moves is told of.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Cancelled when a time-out fires, or the exchange has to end for another reason.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The time-out that fired.
    pub fn fired(&self) -> Option<TimeOut> {
        let place = self.pulse.0.fired.load(Ordering::Acquire).checked_sub(1)?;
        TimeOut::ALL.get(usize::from(place)).copied()
    }
}

async fn watch(pulse: Pulse, patience: Patience, stop: CancellationToken) {
    let state = &*pulse.0;
    loop {
        let moved = state.begun + Duration::from_millis(state.moved.load(Ordering::Relaxed));
        let quiet = match state.answered.load(Ordering::Acquire) {
            true => patience.idle.map(|time| (moved + time, TimeOut::Idle)),
            false => patience
                .first_byte
                .map(|time| (moved + time, TimeOut::FirstByte)),
        };
        let total = patience
            .total
            .map(|time| (state.begun + time, TimeOut::Total));
        let next = quiet.into_iter().chain(total).min_by_key(|(at, _)| *at);
        match next {
            None => state.wake.notified().await,
            Some((at, which)) if at <= Instant::now() => {
                state.fired.store(which as u8 + 1, Ordering::Release);
                return stop.cancel();
            }
            Some((at, _)) => tokio::select! {
                () = sleep_until(at) => {}
                () = state.wake.notified() => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(count))
    }

    async fn ends_after(pace: &Pace, begun: Instant) -> u64 {
        pace.stop().cancelled().await;
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_does_not_begin_is_given_up() {
        let patience = Patience {
            first_byte: seconds(5),
            idle: seconds(60),
            ..Patience::default()
        };
        let begun = Instant::now();
        let pace = Pace::begin(&patience, &CancellationToken::new()).unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        // The last piece of the request has gone.
        pace.pulse().moved();
        assert_eq!(ends_after(&pace, begun).await, 8);
        assert_eq!(pace.fired(), Some(TimeOut::FirstByte));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_its_time_while_it_moves() {
        let patience = Patience {
            first_byte: seconds(1),
            idle: seconds(5),
            ..Patience::default()
        };
        let begun = Instant::now();
        let pace = Pace::begin(&patience, &CancellationToken::new()).unwrap();
        pace.pulse().answered();
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            pace.pulse().moved();
        }
        assert_eq!(pace.fired(), None);
        assert_eq!(ends_after(&pace, begun).await, 25);
        assert_eq!(pace.fired(), Some(TimeOut::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn the_whole_has_a_bound_of_its_own_and_nothing_has_one_unasked() {
        let patience = Patience {
            total: seconds(10),
            ..Patience::default()
        };
        let begun = Instant::now();
        let pace = Pace::begin(&patience, &CancellationToken::new()).unwrap();
        pace.pulse().answered();
        assert_eq!(ends_after(&pace, begun).await, 10);
        assert_eq!(pace.fired(), Some(TimeOut::Total));
        assert!(Pace::begin(&Patience::default(), &CancellationToken::new()).is_none());
    }

    #[tokio::test]
    async fn what_else_ends_the_exchange_is_no_time_out() {
        let closed = CancellationToken::new();
        let patience = Patience {
            idle: seconds(10),
            ..Patience::default()
        };
        let pace = Pace::begin(&patience, &closed).unwrap();
        closed.cancel();
        assert!(pace.stop().is_cancelled());
        assert_eq!(pace.fired(), None);
    }
}
