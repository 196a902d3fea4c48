//! The coordinator's own event stream: the bus where no Redis is configured, and while it is down.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use patchbay_common::event::{CircuitEvent, FROM_COORDINATOR, Message};
use reqwest::Response;
use serde::Deserialize;
use tokio::time::timeout;

use super::backoff::{Backoff, Outage};
use super::client::{CallError, Coordinator};
use super::inbox::{Inbox, Input, Via};
use super::sse::{Event, Parser, TooLong};
use super::status::{Board, Reach, RedisState, Status};

/// The coordinator sends at least a comment every five seconds; three missed ones end the stream.
const SILENCE: Duration = Duration::from_secs(15);
/// How long Redis may be down before the stream takes over.
const REDIS_DOWN: Duration = Duration::from_millis(500);
/// How often a coordinator that has no stream (a Python one) is asked for it.
const UNOFFERED: Duration = Duration::from_secs(60);

/// Why the stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the stream was cut: {0}")]
    Cut(#[from] reqwest::Error),
    #[error("the stream ended")]
    Ended,
    #[error("nothing for {} s", SILENCE.as_secs())]
    Silent,
    #[error(transparent)]
    TooLong(#[from] TooLong),
    #[error("the worker is not registered")]
    Unregistered,
}

/// Streams whenever it is needed, for ever.
pub(super) async fn run(coordinator: Coordinator, inbox: Inbox, board: Board) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    let mut outage = Outage::new("the coordinator's event stream");
    loop {
        needed(&board).await;
        let began = Instant::now();
        let mut streaming = Streaming {
            coordinator: &coordinator,
            inbox: &inbox,
            board: &board,
            generation: None,
        };
        let ended = tokio::select! {
            ended = streaming.run(&mut outage) => ended,
            () = board.until(redis_serves) => {
                log::info!("Redis is back: the coordinator's event stream is not needed");
                board.write(|status| status.streaming = false);
                outage = Outage::new("the coordinator's event stream");
                continue;
            }
        };
        board.write(|status| status.streaming = false);
        let Err(cause) = ended;
        outage.failed(&cause);
        if matches!(&cause, StreamError::Call(call) if call.is_not_found()) {
            tokio::time::sleep(UNOFFERED).await;
            continue;
        }
        if began.elapsed() > Duration::from_secs(5) {
            backoff.reset();
        }
        tokio::time::sleep(backoff.wait()).await;
    }
}

/// Redis is subscribed and nothing was missed.
fn redis_serves(status: &Status) -> bool {
    status.redis == Some(RedisState::Current)
}

/// Waits until Redis is missing, by configuration or for longer than a moment.
async fn needed(board: &Board) {
    let missing = |status: &Status| matches!(status.redis, None | Some(RedisState::Down(_)));
    loop {
        board.until(missing).await;
        let left = match board.read().redis {
            None => return,
            Some(RedisState::Down(since)) => REDIS_DOWN.saturating_sub(since.elapsed()),
            Some(_) => continue,
        };
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

/// The events of a stream that is open.
pub(super) struct Reading {
    answer: Response,
    parser: Parser,
    ready: VecDeque<Event>,
}

impl Reading {
    pub(super) fn new(answer: Response) -> Self {
        Self {
            answer,
            parser: Parser::default(),
            ready: VecDeque::new(),
        }
    }

    /// The next event.
    pub(super) async fn next(&mut self) -> Result<Event, StreamError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let piece = timeout(SILENCE, self.answer.chunk())
                .await
                .map_err(|_| StreamError::Silent)??
                .ok_or(StreamError::Ended)?;
            let ready = &mut self.ready;
            self.parser.feed(&piece, |event| ready.push_back(event))?;
        }
    }
}

/// One connection.
struct Streaming<'a> {
    coordinator: &'a Coordinator,
    inbox: &'a Inbox,
    board: &'a Board,
    /// The last generation this connection named.
    generation: Option<u64>,
}

impl Streaming<'_> {
    async fn run(&mut self, outage: &mut Outage) -> Result<std::convert::Infallible, StreamError> {
        let status = self.board.read();
        let worker = status.worker.ok_or(StreamError::Unregistered)?;
        let answer = self.coordinator.events(worker, status.generation).await?;
        outage.over();
        self.board.write(|status| {
            status.streaming = true;
            status.coordinator_reach = Reach::ok();
        });
        let mut reading = Reading::new(answer);
        loop {
            let event = reading.next().await?;
            self.take(&event).await;
        }
    }

    async fn take(&mut self, event: &Event) {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Beside {
            generation: Option<u64>,
            request_id: Option<String>,
        }
        let beside: Beside = serde_json::from_str(&event.data).unwrap_or_default();
        let own = event.id.as_deref().and_then(|id| id.parse().ok());
        if let Some(named) = own.or(beside.generation) {
            self.generation = Some(named);
        }
        match event.name.as_str() {
            "hello" => self.inbox.tell(Input::Told(self.generation)).await,
            "resync" => self.inbox.resync(),
            name => match CircuitEvent::from_body(name, &event.data) {
                Ok(Some(fact)) => self.inbox.message(
                    Message {
                        event: fact,
                        source: FROM_COORDINATOR.to_owned(),
                        // Without a number of its own it is announced again, as things stand.
                        generation: self.generation,
                        request_id: beside.request_id,
                    },
                    Via::Stream,
                ),
                Ok(None) => log::debug!("unknown event `{name}` passed over"),
                Err(cause) => {
                    log::warn!("an event cannot be read, fetching instead: {cause}");
                    self.inbox.resync();
                }
            },
        }
    }
}
