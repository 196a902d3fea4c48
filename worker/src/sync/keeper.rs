//! The one task that changes the table: it takes in order what the buses, the heartbeat and the
//! fetches bring, lets the ledger decide, and does what it says.

use std::sync::Arc;
use std::time::Duration;

use patchbay_common::event::{Change, Message};
use patchbay_common::request_id::{self, RequestId};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::acknowledge::{Acknowledger, Word};
use super::backoff::{Backoff, Outage, shorten};
use super::client::{CallError, Coordinator};
use super::inbox::{Input, Outlet, Via};
use super::snapshot::Snapshot;
use super::state::{Ledger, Step, Urgency};
use super::status::{Board, Reach, RedisState};
use super::{Serving, state};
use crate::table::Table;

/// How long a missing change may be on its way before everything is fetched.
const SETTLE: Duration = Duration::from_millis(50);
/// Least time between two fetches for changes that did not arrive.
const BETWEEN: Duration = Duration::from_millis(500);
/// How long changes without numbers are gathered before a fetch checks them.
const SLOW: Duration = Duration::from_secs(5);
/// Most messages that wait for a fetch to be acknowledged.
const HELD: usize = 1_024;

/// What the keeper works with.
pub(super) struct Tools {
    pub(super) coordinator: Coordinator,
    pub(super) table: Arc<Table>,
    pub(super) serving: Arc<dyn Serving>,
    pub(super) acknowledger: Acknowledger,
    pub(super) board: Board,
    /// Woken when the coordinator does not know the worker: it has to register again.
    pub(super) stranger: Arc<Notify>,
}

/// The task's state.
pub(super) struct Keeper {
    tools: Tools,
    ledger: Ledger,
    every: Duration,
    planned: Urgency,
    due: Instant,
    periodic: Instant,
    not_before: Instant,
    last_fetch: Option<Instant>,
    fetches: JoinSet<Result<Snapshot, CallError>>,
    backoff: Backoff,
    outage: Outage,
    held: Vec<(Message, Via)>,
    subscribed: Option<u64>,
    promoting: Option<u64>,
    /// The generation the coordinator was last told.
    acknowledged: Option<u64>,
}

impl Keeper {
    pub(super) fn new(tools: Tools, authority: &str, every: Duration) -> Self {
        let now = Instant::now();
        Self {
            tools,
            ledger: Ledger::new(authority),
            every: every.max(Duration::from_secs(1)),
            planned: Urgency::Now,
            due: now,
            periodic: now,
            not_before: now,
            last_fetch: None,
            fetches: JoinSet::new(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
            outage: Outage::new("fetching the circuits"),
            held: Vec::new(),
            subscribed: None,
            promoting: None,
            acknowledged: None,
        }
    }

    /// Keeps the table until the senders are gone.
    pub(super) async fn run(mut self, mut outlet: Outlet) {
        let lost = Arc::clone(&outlet.lost);
        loop {
            tokio::select! {
                biased;
                Some(answer) = self.fetches.join_next() => {
                    // A fetch that panicked or was aborted leaves the ledger in doubt, as a
                    // failed one does.
                    let answer = answer.unwrap_or_else(|cause| {
                        Err(CallError::Unusable(cause.to_string()))
                    });
                    self.fetched(answer);
                }
                () = lost.notified() => self.ledger.doubt(),
                input = outlet.inputs.recv() => match input {
                    Some(input) => self.take(input).await,
                    None => return,
                },
                () = sleep_until(self.due), if self.fetches.is_empty() => self.fetch(),
            }
            if !self.held.is_empty() && self.ledger.urgency() == Urgency::None {
                self.release();
            }
            self.plan();
        }
    }

    async fn take(&mut self, input: Input) {
        match input {
            Input::Message(message, via) => {
                let id = message.request_id.as_deref().and_then(RequestId::parse);
                let id = id.unwrap_or_else(RequestId::generate);
                request_id::scope(id, async { self.message(message, via) }).await;
            }
            Input::Told(generation) => self.ledger.hear(generation),
            Input::Resync => self.ledger.doubt(),
            Input::Subscribed(time) => {
                self.subscribed = Some(time);
                self.ledger.doubt();
            }
        }
    }

    fn message(&mut self, message: Message, via: Via) {
        let table = &self.tools.table;
        let step = self.ledger.weigh(&message, |id| table.by_id(id).is_some());
        match step {
            Step::Apply(change) => {
                describe(&message);
                table.apply(&change);
                if let Change::Created(circuits) = &message.event.change {
                    let opened = circuits.len() as u64;
                    self.tools.board.write(|status| status.opened += opened);
                    self.acknowledge_or_hold(message, via);
                }
            }
            Step::Acknowledge => self.acknowledge_or_hold(message, via),
            Step::AwaitFetch => self.hold(message, via),
            Step::Ignore => {}
        }
    }

    fn acknowledge_or_hold(&mut self, message: Message, via: Via) {
        if self.in_table(&message) {
            self.acknowledge(message, via);
        } else {
            self.ledger.doubt();
            self.hold(message, via);
        }
    }

    fn hold(&mut self, message: Message, via: Via) {
        if self.held.len() < HELD {
            self.held.push((message, via));
        }
    }

    fn in_table(&self, message: &Message) -> bool {
        let touched = state::touched(&message.event.change);
        let has = |id| self.tools.table.by_id(id).is_some();
        touched.into_iter().all(has)
    }

    /// Acknowledges circuits the table has. The number that goes with it says that everything up
    /// to there is served, so it never goes beyond what the ledger knows.
    fn acknowledge(&mut self, mut message: Message, via: Via) {
        let Change::Created(circuits) = &message.event.change else {
            return;
        };
        let deaf = circuits
            .iter()
            .filter_map(|circuit| circuit.slot())
            .find(|slot| !self.tools.serving.serves(slot));
        if let Some(slot) = deaf {
            log::warn!("not acknowledged: slot {slot} is not served here");
            return;
        }
        let known = self.ledger.known();
        match (via, known) {
            (Via::Redis, _) => {
                message.generation = message.generation.min(known);
                self.acknowledged = self.acknowledged.max(message.generation);
                self.tools.acknowledger.say(Word::Served(message));
            }
            (Via::Stream, Some(known)) if message.generation <= Some(known) => {
                self.acknowledged = Some(known);
                self.tools.acknowledger.say(Word::Reached(known));
            }
            // A change before it is missing yet.
            (Via::Stream, _) => self.hold(message, via),
        }
    }

    /// Acknowledges what waited and is in the table now.
    fn release(&mut self) {
        for (message, via) in std::mem::take(&mut self.held) {
            if self.in_table(&message) {
                self.acknowledge(message, via);
            }
        }
    }

    fn fetch(&mut self) {
        let Some(worker) = self.tools.board.worker() else {
            self.not_before = Instant::now() + SETTLE;
            return;
        };
        self.ledger.fetch_begins();
        self.promoting = self.subscribed.take();
        let coordinator = self.tools.coordinator.clone();
        self.fetches
            .spawn(async move { coordinator.circuits(worker).await });
    }

    fn fetched(&mut self, answer: Result<Snapshot, CallError>) {
        self.planned = Urgency::None;
        let snapshot = match answer {
            Ok(snapshot) => snapshot,
            Err(error) => return self.fetch_failed(&error),
        };
        self.outage.over();
        self.backoff.reset();
        let now = Instant::now();
        self.last_fetch = Some(now);
        self.periodic = now + shorten(self.every, 0.1);
        self.due = self.periodic;
        if let Some(circuits) = self.ledger.fetched(snapshot.circuits, snapshot.generation) {
            self.tools.table.replace(circuits);
        }
        let promoted = self.promoting.take();
        self.tools.board.write(|status| {
            status.coordinator_reach = Reach::ok();
            status.last_fetch = Some(now.into_std());
            status.fetches += 1;
            if !status.ready {
                log::info!("{} circuits in the table: ready", self.tools.table.len());
                status.ready = true;
            }
            if status.redis == promoted.map(RedisState::Subscribed) && promoted.is_some() {
                status.redis = Some(RedisState::Current);
            }
        });
        self.release();
        // The event of a circuit may have been lost, and its opener be waiting.
        let known = self.ledger.known();
        if let (Some(known), Some(before)) = (known, self.acknowledged)
            && known > before
        {
            self.tools.acknowledger.say(Word::Reached(known));
        }
        self.acknowledged = known;
    }

    fn fetch_failed(&mut self, error: &CallError) {
        self.ledger.fetch_failed();
        self.subscribed = self.subscribed.max(self.promoting.take());
        self.outage.failed(error);
        self.not_before = Instant::now() + self.backoff.wait();
        self.tools
            .board
            .write(|status| status.coordinator_reach = Reach::failed(error));
        if error.is_not_found() {
            self.tools.stranger.notify_one();
        }
    }

    /// Sets when to fetch next, and shows how things stand.
    fn plan(&mut self) {
        let urgency = self.ledger.urgency();
        if urgency != self.planned {
            let now = Instant::now();
            self.planned = urgency;
            self.due = match urgency {
                Urgency::Now => now,
                Urgency::Settle => self
                    .last_fetch
                    .map_or(now, |last| last + BETWEEN)
                    .max(now + SETTLE),
                Urgency::Slow => (now + SLOW).min(self.periodic),
                Urgency::None => self.periodic,
            };
        }
        self.due = self.due.max(self.not_before);
        let (generation, lag) = (self.ledger.known(), self.ledger.lag());
        self.tools.board.write(|status| {
            status.generation = generation;
            status.lag = lag;
        });
    }
}

fn describe(message: &Message) {
    let name = match &message.event.change {
        Change::Created(_) => "opened",
        Change::Removed(_) => "closed",
        Change::RouteUpdated(..) => "has new routes",
        Change::Added(_) => return,
    };
    for id in state::touched(&message.event.change) {
        log::info!("circuit {id} {name}");
    }
}
