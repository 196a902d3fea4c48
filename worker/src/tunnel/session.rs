//! One agent's session.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use patchbay_common::config::Secret;
use patchbay_common::tunnel::mux::Opener;
use patchbay_common::tunnel::{AgentId, Offer, Transport, TunnelId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::queue::Queue;
use super::settings::Settings;
use super::tokens::{Token, Tokens};

/// How long an agent that is asked may take to show that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// What is known of an agent's session.
#[derive(Debug)]
pub struct Session {
    /// Secret name; who knows it speaks for the agent.
    pub id: String,
    /// The agent.
    pub agent: AgentId,
    /// Name of the token it registered with.
    pub token: String,
    /// What it lends.
    pub offers: Vec<Offer>,
    /// Since when.
    pub since: SystemTime,
    /// Cancelled when it is over.
    pub over: CancellationToken,
    pub(super) queue: Queue,
    lines: Mutex<Option<Line>>,
    generation: AtomicU64,
    heard: Mutex<Instant>,
    draining: AtomicBool,
    /// It came by the multiplexed connection last: without that nobody is there.
    by_mux: AtomicBool,
    secret: Secret,
    /// Generations of what it holds, where a coordinator has granted it.
    grants: Mutex<HashMap<TunnelId, u64>>,
}

/// The multiplexed connection of a session.
#[derive(Debug)]
struct Line {
    generation: u64,
    opener: Opener,
    /// Cancelled when another connection takes its place.
    replaced: CancellationToken,
}

impl Session {
    pub(super) fn new(
        agent: AgentId,
        token: &Token,
        offers: Vec<Offer>,
        settings: &Settings,
    ) -> Arc<Self> {
        Arc::new(Self {
            // Two random UUIDs: 244 bits nobody can guess.
            id: format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()),
            agent,
            token: token.name.clone(),
            offers,
            since: SystemTime::now(),
            over: CancellationToken::new(),
            queue: Queue::new(settings.queue, settings.response_timeout),
            lines: Mutex::new(None),
            generation: AtomicU64::new(0),
            heard: Mutex::new(Instant::now()),
            draining: AtomicBool::new(false),
            by_mux: AtomicBool::new(false),
            secret: token.token.clone(),
            grants: Mutex::default(),
        })
    }

    /// The generation of its hold on a tunnel; 0 if nobody has granted it.
    pub(super) fn granted(&self, id: &TunnelId) -> u64 {
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.get(id).copied().unwrap_or(0)
    }

    /// Its hold on a tunnel is granted.
    pub(super) fn grant(&self, id: &TunnelId, generation: u64) {
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.insert(id.clone(), generation);
    }

    /// The agent has said something.
    pub(super) fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long it has been silent.
    pub(super) fn silence(&self) -> Duration {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.elapsed()
    }

    /// How requests reach the agent at the moment.
    pub fn transport(&self) -> Transport {
        match self.opener() {
            Some(_) => Transport::Mux,
            None => Transport::Poll,
        }
    }

    /// What opens streams, while the multiplexed connection is up.
    pub(super) fn opener(&self) -> Option<Opener> {
        let line = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        line.as_ref().map(|line| line.opener.clone())
    }

    /// The multiplexed connection is up; an earlier one is let go. Answers with what takes it
    /// down again, and with what is cancelled when yet another connection comes.
    pub(super) fn attach(&self, opener: Opener) -> (u64, CancellationToken) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let replaced = CancellationToken::new();
        self.by_mux.store(true, Ordering::Relaxed);
        let line = Line {
            generation,
            opener,
            replaced: replaced.clone(),
        };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = lines.replace(line) {
            earlier.replaced.cancel();
        }
        drop(lines);
        // Requests that came between registration and connection: nobody will pull them.
        if self.queue.pulls() == 0 {
            self.queue.abandon();
        }
        (generation, replaced)
    }

    /// The multiplexed connection of this generation is down.
    pub(super) fn detach(&self, generation: u64) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines
            .as_ref()
            .is_some_and(|line| line.generation == generation)
        {
            *lines = None;
        }
        self.hear();
    }

    /// Whether the agent is there right now, asked where it can be.
    pub(super) async fn is_present(&self) -> bool {
        match self.opener() {
            Some(opener) => opener.answers(SIGN_OF_LIFE).await,
            None => self.queue.pulls() > 0,
        }
    }

    /// Whether requests can reach the agent: its connection is up, or it has been heard lately.
    pub(super) fn is_reachable(&self) -> bool {
        !self.over.is_cancelled() && !self.draining.load(Ordering::Relaxed)
    }

    /// The agent pulls: requests may wait for it to do so again.
    pub(super) fn polls(&self) {
        self.by_mux.store(false, Ordering::Relaxed);
    }

    /// Whether requests that wait will be pulled, as far as anybody can tell.
    pub(super) fn may_poll(&self) -> bool {
        !self.by_mux.load(Ordering::Relaxed)
    }

    /// Whether its token is still good for all it lends.
    pub(super) fn is_granted(&self, tokens: &Tokens) -> bool {
        tokens.named(&self.token).is_some_and(|token| {
            token.token == self.secret && self.offers.iter().all(|one| token.allows(&one.id))
        })
    }

    /// No new requests from now on.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it takes no new requests.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Ends it: whoever waits for it is told at once.
    pub(super) fn end(&self) {
        self.over.cancel();
        self.queue.close();
    }
}
