//! Tells the coordinator that circuits are being served: on Redis as the incumbent's workers do,
//! or by a call of the coordinator's API.

use patchbay_common::event::{CHANNEL, Change, CircuitEvent, FROM_WORKER, Message};
use tokio::sync::mpsc;

use super::backoff::Outage;
use super::client::Coordinator;
use super::redis_link::{LiveConnection, RedisLink};
use super::status::Board;

/// Most acknowledgements that wait. The opener of a lost one is answered after its own time-out.
const CAPACITY: usize = 4_096;
/// Most acknowledgements in one round trip.
const BATCH: usize = 64;

/// What the coordinator is told.
#[derive(Debug)]
pub(super) enum Word {
    /// These circuits are served: published, or told by call if that fails.
    Served(Message),
    /// Everything up to this generation is served: told by call.
    Reached(u64),
}

/// The keeper's end: leaves words without waiting.
#[derive(Clone, Debug)]
pub(super) struct Acknowledger(mpsc::Sender<Word>);

/// The task that sends them.
pub(super) struct Sender {
    due: mpsc::Receiver<Word>,
    redis: Option<LiveConnection>,
    coordinator: Coordinator,
    board: Board,
    outage: Outage,
}

impl Acknowledger {
    /// Leaves a word.
    pub(super) fn say(&self, word: Word) {
        if self.0.try_send(word).is_err() {
            log::warn!("too many acknowledgements wait: one is dropped");
        }
    }
}

pub(super) fn acknowledger(
    redis: Option<&RedisLink>,
    coordinator: Coordinator,
    board: Board,
) -> (Acknowledger, Sender) {
    let (sender, due) = mpsc::channel(CAPACITY);
    let sending = Sender {
        due,
        // Channels are not divided by database.
        redis: redis.map(|link| LiveConnection::new(link.clone(), 0)),
        coordinator,
        board,
        outage: Outage::new("acknowledging circuits"),
    };
    (Acknowledger(sender), sending)
}

impl Sender {
    /// Sends until the keeper is gone.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.due.recv_many(&mut batch, BATCH).await > 0 {
            let (mut served, mut reached) = (Vec::new(), None);
            for word in batch.drain(..) {
                match word {
                    Word::Served(message) => served.push(message),
                    Word::Reached(generation) => reached = reached.max(Some(generation)),
                }
            }
            if !self.publish(&served).await {
                let last = served.iter().filter_map(|message| message.generation).max();
                reached = reached.max(last);
            }
            if let Some(generation) = reached {
                self.call(generation).await;
            }
        }
    }

    /// Whether they are published.
    async fn publish(&mut self, created: &[Message]) -> bool {
        if created.is_empty() {
            return true;
        }
        let Some(redis) = &mut self.redis else {
            return false;
        };
        let mut pipe = redis::pipe();
        for message in created {
            match added(message).map(|added| added.to_wire()) {
                Some(Ok(wire)) => {
                    pipe.publish(CHANNEL, wire).ignore();
                }
                Some(Err(cause)) => log::error!("an acknowledgement cannot be written: {cause}"),
                None => {}
            }
        }
        match redis.run(&pipe).await {
            Ok(()) => {
                self.outage.over();
                true
            }
            Err(cause) => {
                self.outage.failed(&cause);
                false
            }
        }
    }

    async fn call(&mut self, generation: u64) {
        let Some(worker) = self.board.worker() else {
            return;
        };
        match self.coordinator.acknowledge(worker, generation).await {
            Ok(()) => self.outage.over(),
            Err(cause) => self.outage.failed(&cause),
        }
    }
}

fn added(created: &Message) -> Option<Message> {
    let Change::Created(circuits) = &created.event.change else {
        return None;
    };
    Some(Message {
        event: CircuitEvent {
            authority: created.event.authority.clone(),
            change: Change::Added(circuits.clone()),
        },
        source: FROM_WORKER.to_owned(),
        generation: created.generation,
        request_id: created.request_id.clone(),
    })
}
