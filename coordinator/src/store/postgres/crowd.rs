//! Openings that come together go together: what is asked for while one transaction commits is done
//! by the next.
//!
//! All openings on a worker lock its row until their commit has reached the disk, which may take
//! milliseconds: one by one, the disk would bound their rate. Where something is wrong with one of
//! many, each is done alone, so that nobody fails by another's fault.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use deadpool_postgres::Transaction;
use futures_util::future::join_all;
use patchbay_common::circuit::Circuit;
use patchbay_common::event::Change;
use patchbay_common::id::WorkerId;
use patchbay_common::timestamp;
use tokio::sync::oneshot;

use super::allot::Allotment;
use super::attempt::{again, change};
use super::pool::{self, Pool};
use super::{audit, circuits, endpoints, events, workers};
use crate::store::audit::Record;
use crate::store::error::Doing as _;
use crate::store::{Action, Cause, NewCircuit, Opened, Result, StoreError, stored};

/// Most openings in one transaction.
const MOST: usize = 64;
const OPENING: &str = "opening a circuit";
const TOGETHER: &str = "opening circuits together";

/// An opening, and who waits for it.
struct Asked {
    new: NewCircuit,
    answer: oneshot::Sender<Result<Opened>>,
}

/// The openings that wait, by worker. A worker that is here has somebody who serves them.
#[derive(Default)]
pub(super) struct Crowds(Mutex<HashMap<WorkerId, VecDeque<Asked>>>);

impl Crowds {
    /// Opens a circuit, with others that are asked for at the same time. Done to its end even if
    /// nobody waits for it any more.
    pub(super) async fn open(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        new: NewCircuit,
    ) -> Result<Opened> {
        let (answer, answered) = oneshot::channel();
        let worker = new.worker;
        let served = {
            let mut waiting = self.waiting();
            let served = waiting.contains_key(&worker);
            let queue = waiting.entry(worker).or_default();
            queue.push_back(Asked { new, answer });
            served
        };
        if !served {
            let mut turn = Turn {
                crowds: Arc::clone(self),
                worker,
                over: false,
            };
            let pool = Arc::clone(pool);
            tokio::spawn(async move {
                while let Some(batch) = turn.next() {
                    serve(&pool, batch).await;
                }
            });
        }
        answered.await.doing(OPENING)?
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<WorkerId, VecDeque<Asked>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever holds it serves a worker's openings; without a holder nobody waits.
struct Turn {
    crowds: Arc<Crowds>,
    worker: WorkerId,
    over: bool,
}

impl Turn {
    /// What goes together next; `None` once nobody waits, and then the turn is over.
    fn next(&mut self) -> Option<Vec<Asked>> {
        let mut waiting = self.crowds.waiting();
        let queue = waiting.get_mut(&self.worker)?;
        let (batch, rest) = split(std::mem::take(queue));
        *queue = rest;
        if batch.is_empty() {
            // From here on somebody else may serve.
            self.over = true;
            waiting.remove(&self.worker);
            return None;
        }
        Some(batch)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // If the serving broke off, the openers are told so, and the next one serves.
        if !self.over {
            self.crowds.waiting().remove(&self.worker);
        }
    }
}

/// The first openings that may go together, in their order, and the rest. Of two that would share
/// a circuit the second has to see what the first has opened.
fn split(queue: VecDeque<Asked>) -> (Vec<Asked>, VecDeque<Asked>) {
    let mut shared = BTreeSet::new();
    let (mut batch, mut rest) = (Vec::new(), VecDeque::new());
    for asked in queue {
        let key = asked.new.reuse.as_ref().map(circuits::turn);
        if batch.len() == MOST || key.is_some_and(|key| !shared.insert(key)) {
            rest.push_back(asked);
        } else {
            batch.push(asked);
        }
    }
    (batch, rest)
}

async fn serve(pool: &Pool, batch: Vec<Asked>) {
    let (news, answers): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|asked| (asked.new, asked.answer))
        .unzip();
    let outcomes = if news.len() > 1 {
        once(pool, &news).await
    } else {
        Ok(Vec::new())
    };
    let mut outcomes = outcomes.unwrap_or_else(|error| {
        log::debug!("openings are done one by one: {error}");
        Vec::new()
    });
    outcomes.reverse();
    for (new, answer) in news.iter().zip(answers) {
        let outcome = match outcomes.pop() {
            Some(outcome) => outcome,
            None => change!(pool, OPENING, |tx| circuits::open(&tx, new)),
        };
        // Who does not wait any more does not hear.
        let _ = answer.send(outcome);
    }
}

/// Opens circuits in one transaction, which is not tried again: whatever is in its way is one's.
async fn once(pool: &Pool, news: &[NewCircuit]) -> Result<Vec<Result<Opened>>> {
    let started = Instant::now();
    let outcome = async {
        let mut client = pool.client(TOGETHER).await?;
        let tx = pool::begin(&mut client, TOGETHER, pool::Access::Write).await?;
        let opened = together(&tx, news).await?;
        tx.commit().await.doing(TOGETHER)?;
        Ok(opened)
    };
    let outcome = outcome.await;
    pool.observe(TOGETHER, started.elapsed(), outcome.is_ok());
    outcome
}

/// Opens circuits on one worker; answers in their order.
async fn together(tx: &Transaction<'_>, news: &[NewCircuit]) -> Result<Vec<Result<Opened>>> {
    let Some(id) = news.first().map(|new| new.worker) else {
        return Ok(Vec::new());
    };
    let turns: BTreeSet<String> = news
        .iter()
        .filter_map(|new| new.reuse.as_ref().map(circuits::turn))
        .collect();
    if !turns.is_empty() {
        pool::take_turns(tx, &turns.into_iter().collect::<Vec<_>>()).await?;
    }
    let shared = join_all(news.iter().map(|new| async {
        match &new.reuse {
            Some(reuse) => circuits::reusable(tx, reuse).await,
            None => Ok(None),
        }
    }));
    let shared: Vec<Option<Opened>> = shared.await.into_iter().collect::<Result<_>>()?;
    let fresh: Vec<&NewCircuit> = news
        .iter()
        .zip(&shared)
        .filter_map(|(new, shared)| shared.is_none().then_some(new))
        .collect();
    let mut opened = fresh_ones(tx, id, &fresh).await?.into_iter();
    shared
        .into_iter()
        .map(|shared| match shared {
            Some(shared) => Ok(Ok(shared)),
            // There is one for each that is not shared.
            None => opened.next().ok_or(StoreError::NoSuchWorker(id)),
        })
        .collect()
}

/// Gives each a slot, or the reason why there is none, and writes down those that have one.
async fn fresh_ones(
    tx: &Transaction<'_>,
    id: WorkerId,
    news: &[&NewCircuit],
) -> Result<Vec<Result<Opened>>> {
    if news.is_empty() {
        return Ok(Vec::new());
    }
    let worker = workers::lock(tx, id).await?;
    let mut worker = worker.ok_or(StoreError::NoSuchWorker(id))?;
    let (ports, names) = endpoints::taken(tx, &worker, news).await?;
    let mut allotment = Allotment::new(&worker, ports, names);
    let now = timestamp::now();
    let slots: Vec<Result<Circuit>> = news
        .iter()
        .map(|new| Ok(stored::born(new, &allotment.exactly(&new.slot)?, now)))
        .collect();
    let born: Vec<Circuit> = slots.iter().flatten().cloned().collect();
    let causes: Vec<Cause> = news
        .iter()
        .zip(&slots)
        .filter(|(_, slot)| slot.is_ok())
        .map(|(new, _)| new.cause())
        .collect();
    let last = write(tx, &mut worker, &born, &causes).await?;
    // Each answer is as of its own moment, as if they had gone one after the other.
    let mut generation = last.saturating_sub(born.len() as u64);
    worker.occupied_slots -= i32::try_from(born.len()).unwrap_or(0);
    let opened = slots.into_iter().map(|slot| {
        let circuit = slot?;
        generation += 1;
        worker.occupied_slots += 1;
        Ok(Opened {
            circuit,
            worker: worker.clone(),
            generation,
            reused: false,
        })
    });
    Ok(opened.collect())
}

/// Writes down circuits, what they are counted by, the audit and the events; answers with the last
/// generation.
async fn write(
    tx: &Transaction<'_>,
    worker: &mut patchbay_common::worker::Worker,
    born: &[Circuit],
    causes: &[Cause],
) -> Result<u64> {
    if born.is_empty() {
        return Ok(0);
    }
    let records: Vec<Record<'_>> = born
        .iter()
        .map(|circuit| Record::new(Action::Opened, circuit, &worker.authority))
        .collect();
    let rows: Vec<_> = records.iter().zip(causes).collect();
    let changes = born.iter().zip(causes).map(|(circuit, cause)| {
        let created = Change::Created(vec![circuit.clone()]);
        (created, cause.request_id.clone())
    });
    let count = i32::try_from(born.len()).unwrap_or(i32::MAX);
    // Sent together and answered together, as for one.
    let (inserted, occupied, written, logged) = tokio::join!(
        endpoints::insert(tx, worker, born),
        circuits::occupy(tx, worker.id, count),
        audit::write_each(tx, &rows),
        events::log_each(tx, worker.id, &worker.authority, changes.collect()),
    );
    inserted?;
    let occupied = occupied?;
    written?;
    worker.occupied_slots = occupied;
    logged
}
