//! A steady load: requests leave at a fixed rate whether or not earlier ones were answered, so
//! that a stall shows as failures and latency instead of as a lower rate.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use patchbay_common::request_id::HEADER;
use reqwest::Client;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

/// Failures described one by one.
const DESCRIBED: usize = 10;
/// Requests unanswered at once before the load gives up: a stall of many seconds.
const MOST_OUTSTANDING: usize = 20_000;
/// How often requests are sent; each time as many as are due.
const TICK: Duration = Duration::from_millis(2);

/// A page to ask for, and the cookie that opens it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its URL.
    pub url: String,
    /// The `Cookie` header.
    pub cookie: String,
    /// What the page says.
    pub expected: &'static str,
}

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    answered: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    sender: JoinHandle<Tally>,
}

/// What a load came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests sent.
    pub sent: usize,
    /// Requests that were not answered as expected.
    pub failed: usize,
    /// The first failures, with the request's time after the start and its id.
    pub described: Vec<String>,
    /// Every answer's time.
    latencies: Vec<Duration>,
}

impl Load {
    /// Begins to send `rate` requests a second to the targets in turn.
    ///
    /// # Errors
    /// If there are no targets.
    pub fn start(targets: Vec<Target>, rate: u32) -> anyhow::Result<Self> {
        ensure!(!targets.is_empty(), "a load needs targets");
        let client = crate::browser::client()?;
        let (stop, stopping) = watch::channel(false);
        let answered = Arc::new(AtomicUsize::new(0));
        let failed = Arc::new(AtomicUsize::new(0));
        let shift = Shift {
            client,
            begin: Instant::now(),
            answered: Arc::clone(&answered),
            failed: Arc::clone(&failed),
            tally: Arc::default(),
        };
        let sender = tokio::spawn(shift.run(targets, rate, stopping));
        Ok(Self {
            stop,
            answered,
            failed,
            sender,
        })
    }

    /// Waits until `count` more requests were answered, failures included.
    ///
    /// # Errors
    /// If that takes more than 30 s.
    pub async fn answers(&self, count: usize) -> anyhow::Result<()> {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        let what = format!("{count} more answers");
        crate::eventually::eventually(&what, Duration::from_secs(30), async || {
            let answered = self.answered.load(Ordering::Relaxed);
            ensure!(answered >= goal, "{answered} of {goal}");
            Ok(())
        })
        .await
    }

    /// Requests that have failed up to now.
    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    /// Stops sending and waits for the last answers.
    ///
    /// # Errors
    /// If the sender broke.
    pub async fn finish(self) -> anyhow::Result<Tally> {
        self.stop.send_replace(true);
        Ok(self.sender.await?)
    }
}

impl Tally {
    /// Answers within this share (0 to 1) took at most so long.
    pub fn quantile(&self, share: f64) -> Duration {
        // An index below the length: no sign, and precision is no matter.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let index = (self.latencies.len().saturating_sub(1) as f64 * share) as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }

    /// Fails with what went wrong, if anything did.
    ///
    /// # Errors
    /// The first failures.
    pub fn ensure_faultless(&self) -> anyhow::Result<()> {
        let (failed, sent) = (self.failed, self.sent);
        let described = self.described.join("\n  ");
        ensure!(failed == 0, "{failed} of {sent} failed:\n  {described}");
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} failed, p50 {:.1?}, p99 {:.1?}, max {:.1?}",
            self.sent,
            self.failed,
            self.quantile(0.5),
            self.quantile(0.99),
            self.quantile(1.0)
        )
    }
}

#[derive(Clone)]
struct Shift {
    client: Client,
    begin: Instant,
    answered: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    tally: Arc<Mutex<Tally>>,
}

impl Shift {
    async fn run(self, targets: Vec<Target>, rate: u32, stopping: watch::Receiver<bool>) -> Tally {
        let targets: Vec<Arc<Target>> = targets.into_iter().map(Arc::new).collect();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut running = JoinSet::new();
        let mut sent = 0;
        while !*stopping.borrow() {
            ticks.tick().await;
            let due = self.begin.elapsed().as_micros() * u128::from(rate) / 1_000_000;
            while (sent as u128) < due && running.len() < MOST_OUTSTANDING {
                let target = Arc::clone(&targets[sent % targets.len()]);
                running.spawn(self.clone().one(target, format!("load-{sent}")));
                sent += 1;
            }
            while running.try_join_next().is_some() {}
        }
        while running.join_next().await.is_some() {}
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tally = std::mem::take(&mut *tally);
        tally.sent = sent;
        tally.failed = self.failed.load(Ordering::Relaxed);
        tally.latencies.sort_unstable();
        tally
    }

    async fn one(self, target: Arc<Target>, id: String) {
        let left = Instant::now();
        let problem = self.ask(&target, &id).await.err();
        {
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.latencies.push(left.elapsed());
            if let Some(problem) = problem {
                self.failed.fetch_add(1, Ordering::Relaxed);
                if tally.described.len() < DESCRIBED {
                    let at = left.duration_since(self.begin);
                    let after = left.elapsed();
                    tally.described.push(format!(
                        "{id} to {} at {at:.2?}, after {after:.2?}: {problem:#}",
                        target.url
                    ));
                }
            }
        }
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    async fn ask(&self, target: &Target, id: &str) -> anyhow::Result<()> {
        let request = self.client.get(&target.url);
        let request = request.header("cookie", &target.cookie).header(HEADER, id);
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status == 200 && text == target.expected, "{status}: {text}");
        Ok(())
    }
}
