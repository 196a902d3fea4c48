//! A client's connection: heads read in time, plain requests carried, others handed over, the
//! memory given back while nothing is asked.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use pingora_core::apps::{HttpServerApp as _, ServerApp as _};
use pingora_core::protocols::IO;
use pingora_core::protocols::http::ServerSession;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::Lane;
use super::buffer::Buffer;
use super::head::Field;
use super::pool::Pool;
use super::request::{self, MAX_HEAD, Reason, Request, Seen};
use super::rewrite::Added;
use crate::frontend::{Guarded, Wire};

/// A connection that has been idle for so long gives its memory back and hears of a stop.
const REST: Duration = Duration::from_secs(1);
/// What is read at first of a connection that has rested.
const FIRST_READ: usize = 512;
/// What is read at once of heads and short bodies.
pub(super) const READ: usize = 16 * 1_024;

/// How long, and for how much, a client is heard that has its last answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// A client's connection in the lane.
pub(super) struct Connection<S> {
    pub(super) lane: Arc<Lane>,
    pub(super) pool: Arc<Pool>,
    pub(super) client: S,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) tls: bool,
    pub(super) memory: Memory,
    /// Requests read from it.
    requests: u32,
    stopping: watch::Receiver<bool>,
    /// Fires at the deadline or earlier; set back only when it has fired.
    timer: Pin<Box<Sleep>>,
}

/// What an exchange works in; given back by connections that rest.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// From the client.
    pub(super) up: Buffer,
    /// The head of the request at hand.
    pub(super) head: Vec<u8>,
    /// From the app.
    pub(super) down: Buffer,
    /// To the app.
    pub(super) request: Vec<u8>,
    /// To the client.
    pub(super) out: Vec<u8>,
    pub(super) fields: Vec<Field>,
    pub(super) answer_fields: Vec<Field>,
    pub(super) added: Added,
}

/// What becomes of the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It waits for the next one.
    Kept,
    /// It ends.
    Closed,
    /// The request is for the other engine; nothing of it has been used.
    HandOver(Reason),
}

/// What was read.
enum Read {
    Plain(Request),
    Other(Reason),
    /// The client is gone, silent for too long, or slow.
    Nothing,
}

impl Lane {
    /// Carries a connection to its end.
    pub async fn serve<S: IO + 'static>(
        self: &Arc<Self>,
        client: S,
        wire: Wire,
        stopping: watch::Receiver<bool>,
    ) {
        let Some((peer, local)) = addresses(&client) else {
            return;
        };
        if wire == Wire::Http2 {
            let guarded = Box::new(Guarded::new(client, wire, self.patience.head));
            self.other.process_new(guarded, &stopping).await;
            return;
        }
        let mut connection = Connection {
            lane: Arc::clone(self),
            pool: self.pools.here(),
            tls: client.get_ssl_digest().is_some(),
            client,
            peer,
            local,
            memory: Memory::default(),
            timer: Box::pin(tokio::time::sleep(self.patience.head)),
            requests: 0,
            stopping,
        };
        let mut first = true;
        loop {
            let read = connection.read(first).await;
            connection.requests = connection.requests.saturating_add(1);
            let after = match read {
                Read::Nothing => return,
                Read::Plain(request) => connection.exchange(request).await,
                Read::Other(reason) => After::HandOver(reason),
            };
            match after {
                After::Kept => {}
                After::Closed => return connection.close().await,
                After::HandOver(reason) => {
                    self.conduct.metrics.handed_over(reason);
                    match connection.hand_over().await {
                        Some(back) => connection = back,
                        None => return,
                    }
                }
            }
            first = false;
        }
    }
}

/// Peer and local address, known since the connection was accepted.
fn addresses(client: &impl IO) -> Option<(SocketAddr, SocketAddr)> {
    let digest = client.get_socket_digest()?;
    let peer = *digest.peer_addr()?.as_inet()?;
    Some((peer, *digest.local_addr()?.as_inet()?))
}

impl<S: IO + 'static> Connection<S> {
    /// Whether the connection is not kept after this request: the process takes no new work, or
    /// it has carried as many as it may.
    pub(super) fn is_last(&self) -> bool {
        let most = self.lane.conduct.limits.requests_per_connection;
        *self.stopping.borrow() || most != 0 && self.requests >= most
    }

    /// Whether a head is within what the configuration allows.
    fn is_within_limits(&self, request: &Request) -> bool {
        let limits = &self.lane.conduct.limits;
        self.memory.fields.len() <= limits.header_fields
            && request.length as u64 <= limits.header_bytes.0
    }

    /// Reads a head. The first has to be whole in time from the beginning on, later ones from
    /// their first byte on.
    async fn read(&mut self, first: bool) -> Read {
        let begun = Instant::now();
        let patience = self.lane.patience;
        let mut deadline = begun + patience.head;
        let mut in_head = first || !self.memory.up.is_empty();
        let mut resting = false;
        loop {
            if !self.memory.up.is_empty() {
                match request::look(self.memory.up.data(), &mut self.memory.fields) {
                    Seen::Plain(request) if self.is_within_limits(&request) => {
                        return Read::Plain(request);
                    }
                    Seen::Plain(_) => return Read::Other(Reason::Long),
                    Seen::Other(reason) => return Read::Other(reason),
                    Seen::Part => {}
                }
                if !in_head {
                    in_head = true;
                    deadline = Instant::now() + patience.head;
                }
            }
            let until = match (in_head, resting) {
                (true, _) => deadline,
                (false, false) => begun + REST.min(patience.keepalive),
                (false, true) => begun + patience.keepalive,
            };
            self.make_room(resting);
            match self.fill(until, resting).await {
                Some(Ok(count)) if count > 0 => resting = false,
                Some(_) => return Read::Nothing,
                None if in_head || resting => return Read::Nothing,
                None => {
                    resting = true;
                    self.memory = Memory::default();
                }
            }
        }
    }

    /// A connection that comes from its rest reads a little at first: most read nothing.
    fn make_room(&mut self, resting: bool) {
        let up = &mut self.memory.up;
        up.grow(if resting { FIRST_READ } else { READ });
        debug_assert!(READ > MAX_HEAD && !up.is_full());
    }

    /// Reads once; `None` when the time has come.
    async fn fill(&mut self, until: Instant, resting: bool) -> Option<io::Result<usize>> {
        let Self {
            memory,
            client,
            timer,
            lane,
            ..
        } = self;
        // An active connection does not register for this at each request: it hears with its
        // answer.
        let mut ended = pin!(async {
            match resting {
                true => lane.conduct.drain.idle_may_end().await,
                false => std::future::pending().await,
            }
        });
        std::future::poll_fn(|cx| {
            if let Poll::Ready(read) = memory.up.poll_fill(cx, client) {
                return Poll::Ready(Some(read));
            }
            if timer.deadline() > until {
                timer.as_mut().reset(until);
            }
            while timer.as_mut().poll(cx).is_ready() {
                if Instant::now() >= until {
                    return Poll::Ready(None);
                }
                timer.as_mut().reset(until);
            }
            if resting && ended.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// Gives what has been read to the other engine, and takes the connection back after its
    /// request, if it is kept.
    async fn hand_over(self) -> Option<Self> {
        let keep = !self.is_last();
        let Self {
            lane,
            pool,
            client,
            peer,
            local,
            tls,
            memory,
            requests,
            stopping,
            timer,
        } = self;
        let read = BytesMut::from(memory.up.data());
        drop(memory);
        let guarded = Guarded::new(client, Wire::Http1, lane.patience.head).after(&read);
        let mut session = ServerSession::new_http1(Box::new(guarded));
        session.set_keepalive(keep.then_some(lane.patience.keepalive.as_secs()));
        session.set_pipelined_prefix(read);
        let back = lane.other.process_new_http(session, &stopping).await?;
        let (stream, _) = back.consume();
        let guarded = stream.into_any().downcast::<Guarded<S>>().ok()?;
        Some(Self {
            client: guarded.into_inner().await?,
            memory: Memory::default(),
            lane,
            pool,
            peer,
            local,
            tls,
            requests,
            stopping,
            timer,
        })
    }

    /// Ends the connection. A client that is still sending what nobody wants is heard for a
    /// moment: a reset could overtake its answer.
    async fn close(&mut self) {
        let _ = tokio::time::timeout(LINGER, async {
            self.client.flush().await?;
            AsyncWriteExt::shutdown(&mut self.client).await?;
            let mut left = LINGER_BYTES;
            while left > 0 {
                self.memory.up.clear();
                let up = &mut self.memory.up;
                let read = std::future::poll_fn(|cx| up.poll_fill(cx, &mut self.client)).await?;
                if read == 0 {
                    break;
                }
                left = left.saturating_sub(read);
            }
            io::Result::Ok(())
        })
        .await;
    }
}
