//! Draining: stop taking new work, let the running work end, then go.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

/// Counts what is in flight and tells everyone when to stop. Cheap to clone, and to enter: every
/// request does.
#[derive(Clone, Debug)]
pub struct Drain {
    stopping: Arc<watch::Sender<bool>>,
    idle_may_end: Arc<watch::Sender<bool>>,
    in_flight: Arc<Count>,
}

#[derive(Debug, Default)]
struct Count {
    now: AtomicUsize,
    none_left: Notify,
}

/// One piece of work in flight; it has ended when this is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Count>);

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All work ended.
    Finished,
    /// The grace ran out with this many pieces of work in flight.
    GraceOver(usize),
    /// The operator asked a second time, with this many pieces of work in flight.
    Forced(usize),
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// Nothing in flight, not stopping.
    pub fn new() -> Self {
        Self {
            stopping: Arc::new(watch::channel(false).0),
            idle_may_end: Arc::new(watch::channel(false).0),
            in_flight: Arc::default(),
        }
    }

    /// Counts one piece of work until the guard is dropped.
    pub fn enter(&self) -> InFlight {
        self.in_flight.now.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.in_flight))
    }

    /// How much work is in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.now.load(Ordering::Acquire)
    }

    /// Turns true when the process should take no new work.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Whether the process is stopping.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Completes when the process should take no new work.
    pub async fn stopping(&self) {
        let mut watch = self.stopping.subscribe();
        if watch.wait_for(|stopping| *stopping).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Tells everyone to take no new work, and to end connections on which nothing happens.
    pub fn begin(&self) {
        self.idle_may_end.send_replace(true);
        self.stopping.send_replace(true);
    }

    /// Tells everyone to take no new connections. Those that are there may ask once more, and are
    /// told with the answer: ended while idle, they might be on the point of asking.
    pub fn begin_gently(&self) {
        self.stopping.send_replace(true);
    }

    /// Completes when connections on which nothing happens may be ended.
    pub async fn idle_may_end(&self) {
        let mut watch = self.idle_may_end.subscribe();
        if watch.wait_for(|may| *may).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Waits for SIGTERM or SIGINT, begins the drain, and returns when the last piece of work
    /// has ended, at the latest after `grace`, at once on a second signal.
    ///
    /// # Errors
    /// If signal handlers cannot be installed.
    pub async fn run_until_signalled(&self, grace: Duration) -> std::io::Result<Outcome> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        next(&mut terminate, &mut interrupt).await;
        log::info!(
            "stopping: {} in flight, waiting at most {} s",
            self.in_flight(),
            grace.as_secs_f64()
        );
        self.begin();
        let second = next(&mut terminate, &mut interrupt);
        Ok(self.finish(grace, second).await)
    }

    async fn finish(&self, grace: Duration, forced: impl Future<Output = ()>) -> Outcome {
        tokio::select! {
            () = self.none_left() => Outcome::Finished,
            () = tokio::time::sleep(grace) => Outcome::GraceOver(self.in_flight()),
            () = forced => Outcome::Forced(self.in_flight()),
        }
    }
}

impl Drain {
    async fn none_left(&self) {
        loop {
            // Registered before the count is read, so that its end cannot be missed.
            let mut ended = std::pin::pin!(self.in_flight.none_left.notified());
            ended.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            ended.await;
        }
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.now.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ends_with_the_last_piece_of_work() {
        let drain = Drain::new();
        let (one, two) = (drain.enter(), drain.enter());
        drop(one);
        let finishing = drain.finish(Duration::from_secs(60), pending());
        tokio::pin!(finishing);
        assert!(
            tokio::time::timeout(Duration::from_secs(1), &mut finishing)
                .await
                .is_err()
        );
        drop(two);
        assert_eq!(finishing.await, Outcome::Finished);
    }

    #[tokio::test(start_paused = true)]
    async fn grace_and_a_second_signal_cut_it_short() {
        let drain = Drain::new();
        let _work = drain.enter();
        let grace = Duration::from_secs(5);
        assert_eq!(drain.finish(grace, pending()).await, Outcome::GraceOver(1));
        assert_eq!(drain.finish(grace, async {}).await, Outcome::Forced(1));
    }
}
