//! The long poll's queue: requests wait here to be pulled, and again to be answered.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use patchbay_common::tunnel::{Dispatch, Respond};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use super::TunnelError;

/// Most requests in one answer to a pull.
const BATCH: usize = 16;
/// Body bytes after which no further request joins an answer.
const BATCH_BYTES: usize = 4 << 20;
/// Most pulls of one session that wait at a time.
const PULLS: usize = 16;

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    /// As many requests wait as may.
    #[error("the agent's queue is full")]
    Full,
    /// The session is over.
    #[error("the agent is gone")]
    Gone,
    /// The agent does not pull any more: it has connected.
    #[error("the agent has just connected: ask again")]
    Moved,
    /// Nobody pulled it, or nobody answered it, in time.
    #[error("the agent did not answer in time")]
    TimedOut,
    /// The agent could not get an answer.
    #[error("the agent has no answer: {0}")]
    Failed(String),
}

/// Requests of one session.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    more: Notify,
    limit: usize,
    patience: Duration,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Dispatch>,
    /// Who waits for the answer, by request; those in `waiting` among them.
    asking: HashMap<String, Asking>,
    pulls: usize,
    /// Nobody will pull until somebody does again.
    abandoned: bool,
    closed: bool,
}

#[derive(Debug)]
struct Asking {
    answer: oneshot::Sender<Result<Respond, AskError>>,
    pulled: bool,
}

/// Takes a request out of the queue when nobody waits for its answer any more.
struct Withdraw<'a>(&'a Queue, String);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if state.asking.remove(&self.1).is_some_and(|one| !one.pulled) {
            state.waiting.retain(|request| request.request_id != self.1);
        }
    }
}

/// A pull that waits.
struct Pulling<'a>(&'a Queue);

impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        self.0.lock().pulls -= 1;
    }
}

impl Queue {
    /// At most `limit` requests wait to be pulled and as many to be answered, each for `patience`.
    pub(super) fn new(limit: usize, patience: Duration) -> Self {
        Self {
            state: Mutex::default(),
            more: Notify::new(),
            limit,
            patience,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another request would be taken.
    pub(super) fn has_room(&self) -> bool {
        self.room(&self.lock())
    }

    fn room(&self, state: &State) -> bool {
        state.waiting.len() < self.limit && state.asking.len() < 2 * self.limit
    }

    /// Puts a request in and waits for its answer. Its id is given here: nobody can guess it.
    pub(super) async fn ask(&self, mut request: Dispatch) -> Result<Respond, AskError> {
        let id = Uuid::new_v4().simple().to_string();
        request.request_id.clone_from(&id);
        let (sender, answer) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.closed {
                return Err(AskError::Gone);
            }
            if state.abandoned {
                return Err(AskError::Moved);
            }
            if !self.room(&state) {
                return Err(AskError::Full);
            }
            let asking = Asking {
                answer: sender,
                pulled: false,
            };
            state.asking.insert(id.clone(), asking);
            state.waiting.push_back(request);
        }
        let _withdraw = Withdraw(self, id);
        self.more.notify_one();
        match timeout(self.patience, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(AskError::Gone),
            Err(_) => Err(AskError::TimedOut),
        }
    }

    /// Takes the oldest requests out, waiting for the first at most `wait`.
    ///
    /// # Errors
    /// [`TunnelError::Session`] if the session is over, [`TunnelError::Pulls`].
    pub(super) async fn pull(&self, wait: Duration) -> Result<Vec<Dispatch>, TunnelError> {
        let deadline = Instant::now() + wait;
        {
            let mut state = self.lock();
            if state.pulls >= PULLS {
                return Err(TunnelError::Pulls);
            }
            state.pulls += 1;
            state.abandoned = false;
        }
        let _pulling = Pulling(self);
        loop {
            let more = self.more.notified();
            let (taken, left) = self.take()?;
            if !taken.is_empty() {
                if left {
                    self.more.notify_one();
                }
                return Ok(taken);
            }
            if timeout_at(deadline, more).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    fn take(&self) -> Result<(Vec<Dispatch>, bool), TunnelError> {
        let mut state = self.lock();
        if state.closed {
            return Err(TunnelError::Session);
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < BATCH && bytes < BATCH_BYTES {
            let Some(request) = state.waiting.pop_front() else {
                break;
            };
            bytes += request.body.len();
            if let Some(asking) = state.asking.get_mut(&request.request_id) {
                asking.pulled = true;
            }
            taken.push(request);
        }
        Ok((taken, !state.waiting.is_empty()))
    }

    /// Hands an answer to who waits for it.
    ///
    /// # Errors
    /// [`TunnelError::Request`] if no request of that id was pulled and waits.
    pub(super) fn answer(&self, answer: Respond) -> Result<(), TunnelError> {
        let asking = {
            let mut state = self.lock();
            let pulled = state.asking.get(&answer.request_id).map(|one| one.pulled);
            if pulled != Some(true) {
                return Err(TunnelError::Request);
            }
            state.asking.remove(&answer.request_id)
        };
        let asking = asking.ok_or(TunnelError::Request)?;
        let answer = match &answer.error {
            Some(error) => Err(AskError::Failed(error.chars().take(200).collect())),
            None => Ok(answer),
        };
        // Who asked may have gone this very moment.
        let _ = asking.answer.send(answer);
        Ok(())
    }

    /// These requests were taken out but could not be delivered.
    pub(super) fn undelivered(&self, requests: &[String]) {
        let mut state = self.lock();
        for id in requests {
            if let Some(asking) = state.asking.remove(id) {
                let _ = asking.answer.send(Err(AskError::Gone));
            }
        }
    }

    /// Nobody will pull: those who wait for it are told at once, and those who come later.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.abandoned = true;
        for request in std::mem::take(&mut state.waiting) {
            if let Some(asking) = state.asking.remove(&request.request_id) {
                let _ = asking.answer.send(Err(AskError::Moved));
            }
        }
    }

    /// Pulls that wait at the moment.
    pub(super) fn pulls(&self) -> usize {
        self.lock().pulls
    }

    /// Ends it: everybody who waits is told at once.
    pub(super) fn close(&self) {
        {
            let mut state = self.lock();
            state.closed = true;
            state.waiting.clear();
            state.asking.clear();
        }
        self.more.notify_waiters();
    }
}
