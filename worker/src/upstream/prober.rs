//! The task that looks at upstreams: at those that are out of service until they answer, at those
//! with a check of their own for as long as they exist.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::{Check, Fault, Settings, Upstream, UpstreamSet};

/// Looks under way at once.
const LOOKS_AT_ONCE: usize = 64;

/// Watches over upstreams. Traffic reports faults to it; it finds out when they are mended.
#[derive(Debug)]
pub struct Prober {
    settings: Arc<Settings>,
    agenda: Mutex<Agenda>,
    earlier: Notify,
    changes: watch::Sender<u64>,
    faults: [AtomicU64; Fault::KINDS.len()],
}

/// Looks to be taken, the next on top. The number keeps two of one moment apart.
#[derive(Debug, Default)]
struct Agenda {
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    upstreams: std::collections::HashMap<u64, Weak<Upstream>, ahash::RandomState>,
    next: u64,
}

impl Default for Prober {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Prober {
    /// A prober that nobody runs yet.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            agenda: Mutex::default(),
            earlier: Notify::new(),
            changes: watch::channel(0).0,
            faults: Default::default(),
        }
    }

    /// By what rules.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Faults so far, by their kind.
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self
            .faults
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Fault::KINDS.into_iter().zip(counts)
    }

    /// Turns over whenever an upstream goes out of service or comes back: a reason to read
    /// [`UpstreamSet::states`] anew.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Begins the checks of those upstreams of a set that have one. Asking twice does no harm.
    pub fn watch(&self, set: &UpstreamSet) {
        for upstream in set.all() {
            if upstream.check().is_some() {
                self.schedule(upstream, Instant::now());
            }
        }
    }

    /// Notes a fault of an upstream; if it took it out of service, it is looked at until it
    /// answers.
    pub fn report(&self, upstream: &Arc<Upstream>, fault: Fault) {
        self.faults[fault.index()].fetch_add(1, Ordering::Relaxed);
        upstream.forget_address();
        let text = fault.to_string();
        if upstream.health.failed(fault, self.settings.faults_to_eject) {
            self.went_out(upstream, &text);
        }
    }

    fn went_out(&self, upstream: &Arc<Upstream>, why: &str) {
        log::warn!("upstream {} is out of service: {why}", upstream.label);
        self.changes.send_modify(|count| *count += 1);
        self.schedule(upstream, Instant::now() + self.pause(upstream));
    }

    /// Between looks at an upstream.
    fn pause(&self, upstream: &Upstream) -> std::time::Duration {
        match upstream.check().as_deref() {
            Some(check @ Check::Http { .. }) => check.interval(),
            Some(check) if upstream.health.is_up() => check.interval(),
            _ => self.settings.probe_interval,
        }
    }

    fn schedule(&self, upstream: &Arc<Upstream>, at: Instant) {
        if upstream.on_agenda.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut agenda = self.agenda();
        let number = agenda.next;
        agenda.next += 1;
        agenda.due.push(Reverse((at, number)));
        agenda.upstreams.insert(number, Arc::downgrade(upstream));
        drop(agenda);
        self.earlier.notify_one();
    }

    /// Looks at upstreams until the task is dropped.
    pub async fn run(self: Arc<Self>) {
        let slots = Arc::new(Semaphore::new(LOOKS_AT_ONCE));
        loop {
            let upstream = self.next_due().await;
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let prober = Arc::clone(&self);
            tokio::spawn(async move {
                prober.look(&upstream).await;
                drop(slot);
            });
        }
    }

    async fn next_due(&self) -> Arc<Upstream> {
        loop {
            let next = match self.take_due() {
                Ok(upstream) => return upstream,
                Err(next) => next,
            };
            let earlier = self.earlier.notified();
            match next {
                None => earlier.await,
                Some(at) => tokio::select! {
                    () = earlier => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }

    /// The upstream whose time has come, or when the next one's comes.
    fn take_due(&self) -> Result<Arc<Upstream>, Option<Instant>> {
        let mut agenda = self.agenda();
        let now = Instant::now();
        while let Some(Reverse((at, number))) = agenda.due.peek().copied() {
            if at > now {
                return Err(Some(at));
            }
            agenda.due.pop();
            if let Some(upstream) = agenda
                .upstreams
                .remove(&number)
                .and_then(|one| one.upgrade())
            {
                return Ok(upstream);
            }
        }
        Err(None)
    }

    async fn look(&self, upstream: &Arc<Upstream>) {
        let own = upstream.check();
        let check = own.as_deref().cloned().unwrap_or(Check::Tcp {
            interval: self.settings.probe_interval,
            patience: self.settings.probe_timeout,
        });
        match check.run(upstream).await {
            Ok(()) => {
                if upstream.health.passed() {
                    log::info!("upstream {} is in service again", upstream.label);
                    self.changes.send_modify(|count| *count += 1);
                }
            }
            Err(why) => {
                upstream.forget_address();
                // One that is only looked at because it is out of service is known to be faulty.
                if own.is_some() {
                    self.note_failure(upstream, &check, why);
                }
            }
        }
        upstream.on_agenda.store(false, Ordering::Release);
        if upstream.check().is_some() || !upstream.health.is_up() {
            self.schedule(upstream, Instant::now() + self.pause(upstream));
        }
    }

    fn note_failure(&self, upstream: &Arc<Upstream>, check: &Check, why: String) {
        let limit = match check {
            Check::Http {
                failures, grace, ..
            } => {
                if upstream.is_younger_than(*grace) {
                    return;
                }
                *failures
            }
            Check::Tcp { .. } => 1,
        };
        let fault = Fault::Check(why.clone());
        self.faults[fault.index()].fetch_add(1, Ordering::Relaxed);
        if upstream.health.failed(fault, limit) {
            self.went_out(upstream, &why);
        }
    }

    fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
