//! A circuit breaker for one instance of a service.
//!
//! Closed, it counts; too many faults in a row, or too large a share of faults, open it. Open, the
//! instance gets nothing. After a pause it gets one request at a time: enough good ones close it,
//! a bad one opens it again, for twice as long. Health (can it be reached?) is another matter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::upstream::{Breaker, Outcome};

/// How long faults count for their share.
const WINDOW: Duration = Duration::from_secs(10);
/// Good requests in a row that close a half-open breaker.
const PROBES: u32 = 3;
/// After this a trial request that nobody has told the end of is given up.
const TRIAL: Duration = Duration::from_secs(10);

/// When a breaker opens, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerSettings {
    /// Faults in a row.
    pub consecutive: u32,
    /// Share of faults among at least `minimum` requests.
    pub ratio: f64,
    /// Requests from which on a share means something.
    pub minimum: u32,
    /// The first pause.
    pub open_for: Duration,
    /// The longest pause.
    pub open_at_most: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            consecutive: 5,
            ratio: 0.5,
            minimum: 20,
            open_for: Duration::from_secs(5),
            open_at_most: Duration::from_secs(60),
        }
    }
}

/// The breaker of one instance.
#[derive(Debug)]
pub struct CircuitBreaker {
    /// `None` switches it off.
    settings: ArcSwapOption<BreakerSettings>,
    /// Spares requests the lock while all is well.
    closed: AtomicBool,
    state: Mutex<State>,
    label: String,
}

#[derive(Debug)]
struct State {
    window: Window,
    in_a_row: u32,
    /// Open until then, half-open from then on; `None` if closed.
    open_until: Option<Instant>,
    /// The pause before this one, while it is not closed for good.
    pause: Option<Duration>,
    /// Good trials in a row.
    good: u32,
    /// When the trial under way began.
    trial: Option<Instant>,
}

/// Requests of this stretch of time and of the one before.
#[derive(Debug)]
struct Window {
    began: Instant,
    now: (u32, u32),
    before: (u32, u32),
}

impl CircuitBreaker {
    /// A closed one.
    pub fn new(label: &str, settings: Option<BreakerSettings>) -> Self {
        Self {
            settings: ArcSwapOption::from_pointee(settings),
            closed: AtomicBool::new(true),
            state: Mutex::new(State {
                window: Window::new(),
                in_a_row: 0,
                open_until: None,
                pause: None,
                good: 0,
                trial: None,
            }),
            label: label.to_owned(),
        }
    }

    /// Other rules from now on.
    pub fn set(&self, settings: Option<BreakerSettings>) {
        if settings.is_none() {
            self.closed.store(true, Ordering::Relaxed);
            self.lock().close();
        }
        self.settings.store(settings.map(std::sync::Arc::new));
    }

    /// The word for metrics: `closed`, `open` or `half-open`.
    pub fn state(&self) -> &'static str {
        match self.lock().open_until {
            None => "closed",
            Some(until) if Instant::now() < until => "open",
            Some(_) => "half-open",
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Breaker for CircuitBreaker {
    fn admits(&self) -> bool {
        if self.closed.load(Ordering::Relaxed) {
            return true;
        }
        let state = self.lock();
        let now = Instant::now();
        let free = state.trial.is_none_or(|began| now >= began + TRIAL);
        state.open_until.is_none_or(|until| now >= until && free)
    }

    fn began(&self) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.lock();
        if state.open_until.is_some() {
            state.trial = Some(Instant::now());
        }
    }

    fn ended(&self, outcome: Outcome) {
        let settings = self.settings.load();
        let Some(settings) = settings.as_deref() else {
            return;
        };
        let bad = is_fault(outcome);
        let mut state = self.lock();
        let now = Instant::now();
        let Some(until) = state.open_until else {
            if state.count(bad, now, settings) {
                let pause = state.open(now, settings);
                self.closed.store(false, Ordering::Relaxed);
                drop(state);
                log::warn!("breaker of {} opens for {pause:?}", self.label);
            }
            return;
        };
        if now < until {
            // Sent before it opened.
            return;
        }
        state.trial = None;
        if bad {
            let pause = state.open(now, settings);
            drop(state);
            log::warn!("breaker of {} opens again, for {pause:?}", self.label);
            return;
        }
        state.good += 1;
        if state.good >= PROBES {
            state.close();
            self.closed.store(true, Ordering::Relaxed);
            drop(state);
            log::info!("breaker of {} is closed", self.label);
        }
    }
}

/// What the instance answers for: not that it lacks something a client asks for.
fn is_fault(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Failed => true,
        Outcome::Answered(status) => status >= 500 && !matches!(status, 501 | 505),
    }
}

impl State {
    /// Counts a request; true if the breaker has to open.
    fn count(&mut self, bad: bool, now: Instant, settings: &BreakerSettings) -> bool {
        self.in_a_row = if bad { self.in_a_row + 1 } else { 0 };
        let (all, faults) = self.window.count(bad, now);
        let share = f64::from(faults) / f64::from(all.max(1));
        self.in_a_row >= settings.consecutive || all >= settings.minimum && share >= settings.ratio
    }

    fn open(&mut self, now: Instant, settings: &BreakerSettings) -> Duration {
        let longer = self.pause.map(|pause| pause * 2);
        let pause = longer
            .unwrap_or(settings.open_for)
            .min(settings.open_at_most);
        self.pause = Some(pause);
        self.open_until = Some(now + pause);
        self.good = 0;
        self.trial = None;
        pause
    }

    fn close(&mut self) {
        self.window = Window::new();
        self.in_a_row = 0;
        self.open_until = None;
        self.pause = None;
        self.good = 0;
        self.trial = None;
    }
}

impl Window {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            now: (0, 0),
            before: (0, 0),
        }
    }

    /// Requests and faults of the last one to two windows, this one included.
    fn count(&mut self, bad: bool, now: Instant) -> (u32, u32) {
        let age = now.duration_since(self.began);
        if age >= WINDOW {
            self.before = if age < WINDOW * 2 { self.now } else { (0, 0) };
            self.now = (0, 0);
            self.began = now;
        }
        self.now.0 += 1;
        self.now.1 += u32::from(bad);
        (self.now.0 + self.before.0, self.now.1 + self.before.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Outcome = Outcome::Answered(200);
    const BAD: Outcome = Outcome::Answered(503);

    fn breaker() -> CircuitBreaker {
        CircuitBreaker::new("a:1", Some(BreakerSettings::default()))
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn faults_in_a_row_open_it_and_good_trials_close_it() {
        let breaker = breaker();
        for _ in 0..4 {
            breaker.ended(BAD);
        }
        breaker.ended(GOOD);
        for _ in 0..4 {
            breaker.ended(Outcome::Failed);
            assert!(breaker.admits());
        }
        breaker.ended(BAD);
        assert!(!breaker.admits());
        assert_eq!(breaker.state(), "open");
        breaker.ended(GOOD);
        assert!(!breaker.admits(), "an answer to an older request");

        pass(5).await;
        assert_eq!(breaker.state(), "half-open");
        for _ in 0..3 {
            assert!(breaker.admits());
            breaker.began();
            assert!(!breaker.admits(), "one at a time");
            breaker.ended(GOOD);
        }
        assert_eq!(breaker.state(), "closed");
        assert!(breaker.admits());
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_trial_opens_it_for_twice_as_long() {
        let breaker = breaker();
        (0..5).for_each(|_| breaker.ended(BAD));
        for pause in [5, 10, 20, 40, 60, 60] {
            pass(pause - 1).await;
            assert!(!breaker.admits(), "{pause}");
            pass(1).await;
            assert!(breaker.admits(), "{pause}");
            breaker.began();
            breaker.ended(BAD);
        }
        pass(60).await;
        breaker.began();
        assert!(!breaker.admits());
        pass(10).await;
        assert!(breaker.admits(), "a trial whose end nobody told");
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_faults_opens_it_too() {
        let breaker = breaker();
        for _ in 0..9 {
            breaker.ended(BAD);
            breaker.ended(GOOD);
        }
        breaker.ended(BAD);
        assert!(breaker.admits(), "19 are too few");
        breaker.ended(GOOD);
        assert!(!breaker.admits());

        let other = self::breaker();
        for _ in 0..9 {
            other.ended(BAD);
            other.ended(GOOD);
        }
        pass(21).await;
        other.ended(BAD);
        other.ended(GOOD);
        assert!(other.admits(), "what was long ago does not count");
        other.ended(Outcome::Answered(501));
        other.ended(Outcome::Answered(404));
        assert!(other.admits());
    }
}
