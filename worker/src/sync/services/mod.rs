//! Keeps the gateway's services equal to the coordinator's list.
//!
//! Changes are numbered by one generation for all services and come by two ways at once, the
//! coordinator's stream and, where there is one, Redis; whichever is first holds. Whatever may be
//! missing is made good by fetching the whole list: after a gap, a reconnect, a generation that
//! nobody told of, and now and then. While the coordinator is away what is known stays. `ledger`
//! decides, `stream` listens, [`Keeper`] does; the room refuses to know what services are for.

mod ledger;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use patchbay_common::gateway::Published;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::backoff::{Backoff, Outage, shorten};
use super::client::{CallError, Coordinator};
use ledger::{Ledger, Urgency};
pub(super) use stream::run as listen;

/// Most messages that wait; what comes beyond is dropped and made good by a fetch.
const CAPACITY: usize = 4_096;
/// How long a missing change may be on its way before everything is fetched.
const SETTLE: Duration = Duration::from_millis(50);
/// Least time between two fetches for changes that did not arrive.
const BETWEEN: Duration = Duration::from_millis(500);
/// How often a coordinator that has no services (a Python one) is asked for them.
pub(super) const UNOFFERED: Duration = Duration::from_secs(60);

/// The coordinator's services, as far as they are known.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// All of them.
    pub list: Arc<[Published]>,
    /// The generation they stand at; `None` before the first fetch.
    pub generation: Option<u64>,
}

/// Something the keeper must know.
#[derive(Debug)]
pub(super) enum Input {
    /// A service has changed.
    Change(Box<Published>),
    /// The coordinator named its generation.
    Told(u64),
    /// Messages may have been lost.
    Resync,
}

/// Where everything that is heard waits for the keeper, in order.
#[derive(Clone, Debug)]
pub(super) struct Inbox {
    sender: mpsc::Sender<Input>,
    lost: Arc<Notify>,
}

impl Inbox {
    /// Leaves a message; never waits, so that a slow keeper cannot hold up a bus.
    pub(super) fn leave(&self, input: Input) {
        if self.sender.try_send(input).is_err() {
            self.lost.notify_one();
        }
    }

    /// Leaves a change as it came over a bus.
    pub(super) fn wire(&self, wire: &[u8]) {
        match serde_json::from_slice(wire) {
            Ok(change) => self.leave(Input::Change(change)),
            Err(cause) => {
                log::warn!("a change of a service cannot be read, fetching instead: {cause}");
                self.leave(Input::Resync);
            }
        }
    }
}

/// The list, as `GET /api/services` answers.
#[derive(Debug, Deserialize)]
pub struct Listed {
    services: Vec<Value>,
    generation: u64,
}

impl Listed {
    /// The services that can be read: one that cannot (of a later release, say) costs itself only.
    fn readable(self) -> (Vec<Published>, u64) {
        let services = self.services.into_iter().filter_map(|value| {
            let name = value.get("name").cloned().unwrap_or_default();
            serde_json::from_value(value)
                .inspect_err(|cause| log::warn!("service {name} is not understood: {cause}"))
                .ok()
        });
        (services.collect(), self.generation)
    }
}

/// The one task that changes what is known.
pub(super) struct Keeper {
    coordinator: Coordinator,
    ledger: Ledger,
    inputs: mpsc::Receiver<Input>,
    lost: Arc<Notify>,
    out: watch::Sender<Services>,
    every: Duration,
    planned: Urgency,
    due: Instant,
    periodic: Instant,
    not_before: Instant,
    last_fetch: Option<Instant>,
    fetches: JoinSet<Result<Listed, CallError>>,
    backoff: Backoff,
    outage: Outage,
}

impl Keeper {
    /// A keeper that fetches at least every `every`, the door to it, and what it knows.
    pub(super) fn new(
        coordinator: Coordinator,
        every: Duration,
    ) -> (Self, Inbox, watch::Receiver<Services>) {
        let (sender, inputs) = mpsc::channel(CAPACITY);
        let (out, known) = watch::channel(Services::default());
        let lost = Arc::new(Notify::new());
        let now = Instant::now();
        let keeper = Self {
            coordinator,
            ledger: Ledger::default(),
            inputs,
            lost: Arc::clone(&lost),
            out,
            every: every.max(Duration::from_secs(1)),
            planned: Urgency::Now,
            due: now,
            periodic: now,
            not_before: now,
            last_fetch: None,
            fetches: JoinSet::new(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
            outage: Outage::new("fetching the services"),
        };
        (keeper, Inbox { sender, lost }, known)
    }

    /// Keeps them until the senders are gone.
    pub(super) async fn run(mut self) {
        let lost = Arc::clone(&self.lost);
        loop {
            let changed = tokio::select! {
                biased;
                Some(answer) = self.fetches.join_next() => {
                    let answer = answer.unwrap_or_else(|cause| {
                        Err(CallError::Unusable(cause.to_string()))
                    });
                    self.fetched(answer)
                }
                () = lost.notified() => {
                    self.ledger.doubt();
                    false
                }
                input = self.inputs.recv() => match input {
                    Some(input) => self.take_all(input),
                    None => return,
                },
                () = sleep_until(self.due), if self.fetches.is_empty() => {
                    self.fetch();
                    false
                }
            };
            let generation = self.ledger.known();
            if changed {
                let list = self.ledger.services();
                self.out.send_replace(Services { list, generation });
            } else {
                self.out.send_if_modified(|known| {
                    let other = known.generation != generation;
                    known.generation = generation;
                    other
                });
            }
            self.plan();
        }
    }

    /// Takes in everything that waits: what is made of it is made once.
    fn take_all(&mut self, first: Input) -> bool {
        let mut changed = self.take(first);
        for _ in 0..CAPACITY {
            match self.inputs.try_recv() {
                Ok(input) => changed |= self.take(input),
                Err(_) => break,
            }
        }
        changed
    }

    fn take(&mut self, input: Input) -> bool {
        match input {
            Input::Change(change) => {
                let (name, origin) = (change.name.clone(), change.origin.clone());
                let what = match change.definition {
                    Some(_) => "is as it was put",
                    None => "is gone",
                };
                let changed = self.ledger.weigh(*change);
                if changed {
                    log::info!("service {name} ({origin}) {what}");
                }
                changed
            }
            Input::Told(generation) => {
                self.ledger.hear(generation);
                false
            }
            Input::Resync => {
                self.ledger.doubt();
                false
            }
        }
    }

    fn fetch(&mut self) {
        self.ledger.fetch_begins();
        let coordinator = self.coordinator.clone();
        self.fetches
            .spawn(async move { coordinator.services().await });
    }

    fn fetched(&mut self, answer: Result<Listed, CallError>) -> bool {
        self.planned = Urgency::None;
        let now = Instant::now();
        let (list, generation) = match answer {
            Ok(listed) => listed.readable(),
            Err(error) => {
                self.ledger.fetch_failed();
                if error.is_not_found() {
                    log::debug!("the coordinator has no services");
                    self.not_before = now + UNOFFERED;
                } else {
                    self.outage.failed(&error);
                    self.not_before = now + self.backoff.wait();
                }
                return false;
            }
        };
        self.outage.over();
        self.backoff.reset();
        self.last_fetch = Some(now);
        self.periodic = now + shorten(self.every, 0.1);
        self.due = self.periodic;
        let first = self.ledger.known().is_none();
        let changed = self.ledger.fetched(list, generation);
        if first {
            let count = self.ledger.services().len();
            log::info!("{count} services of the coordinator");
        }
        changed || first
    }

    /// Sets when to fetch next.
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
                Urgency::None => self.periodic,
            };
        }
        self.due = self.due.max(self.not_before);
    }
}
