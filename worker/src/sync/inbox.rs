//! Where everything that is heard waits for the keeper, in order.

use std::sync::Arc;

use patchbay_common::event::Message;
use tokio::sync::{Notify, mpsc};

/// Most messages that wait; what comes beyond is dropped and made good by a fetch.
const CAPACITY: usize = 4_096;

/// Something the keeper must know.
#[derive(Debug)]
pub(super) enum Input {
    /// A message came.
    Message(Message, Via),
    /// The coordinator named its generation.
    Told(Option<u64>),
    /// Messages may have been lost.
    Resync,
    /// Redis was subscribed for the n-th time; what was published before is lost.
    Subscribed(u64),
}

/// How a message came, which is how it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// By Redis.
    Redis,
    /// By the coordinator's stream.
    Stream,
}

/// The senders' end.
#[derive(Clone, Debug)]
pub(super) struct Inbox {
    sender: mpsc::Sender<Input>,
    lost: Arc<Notify>,
}

/// The keeper's end.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) inputs: mpsc::Receiver<Input>,
    /// Wakes when messages were dropped.
    pub(super) lost: Arc<Notify>,
}

pub(super) fn inbox() -> (Inbox, Outlet) {
    let (sender, inputs) = mpsc::channel(CAPACITY);
    let lost = Arc::new(Notify::new());
    let inbox = Inbox {
        sender,
        lost: Arc::clone(&lost),
    };
    (inbox, Outlet { inputs, lost })
}

impl Inbox {
    /// Leaves a message; never waits, so that a slow keeper cannot hold up a bus.
    pub(super) fn message(&self, message: Message, via: Via) {
        if self.sender.try_send(Input::Message(message, via)).is_err() {
            self.lost.notify_one();
        }
    }

    /// Says that messages may have been lost.
    pub(super) fn resync(&self) {
        if self.sender.try_send(Input::Resync).is_err() {
            self.lost.notify_one();
        }
    }

    /// Leaves a fact that must not be dropped.
    pub(super) async fn tell(&self, input: Input) {
        if self.sender.send(input).await.is_err() {
            log::debug!("nobody keeps the table any more");
        }
    }
}
