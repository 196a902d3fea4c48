//! A client's connection: heads read in time, plain requests carried, others handed over, the
//! memory given back while nothing is asked.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use pingora_core::protocols::IO;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, timeout};

use super::Lane;
use super::memory::Memory;
use super::pool::Pool;
use super::request::{self, MAX_HEAD, Reason, Request, Seen};
use crate::frontend::Wire;

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
    pub(super) requests: u32,
    pub(super) stopping: watch::Receiver<bool>,
    /// Fires at the deadline or earlier; set back only when it has fired.
    pub(super) timer: Pin<Box<Sleep>>,
}

/// What becomes of the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It waits for the next one.
    Kept,
    /// It ends. The client may still be sending.
    Closed,
    /// It ends as the client wants it, which has nothing more to say.
    Ended,
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
        wire: Option<Wire>,
        stopping: watch::Receiver<bool>,
    ) {
        let Some((peer, local)) = addresses(&client) else {
            return;
        };
        if wire == Some(Wire::Http2) {
            return self.hand_over_whole(client, &[], &stopping).await;
        }
        let mut connection = self.open(client, (peer, local), stopping);
        let mut first = true;
        loop {
            let read = connection.read(first).await;
            connection.requests = connection.requests.saturating_add(1);
            let begun = connection.memory.up.data();
            if first && wire.is_none() && Wire::of(begun) == Some(Wire::Http2) {
                let Connection {
                    client,
                    memory,
                    stopping,
                    ..
                } = connection;
                return self
                    .hand_over_whole(client, memory.up.data(), &stopping)
                    .await;
            }
            let after = match read {
                Read::Nothing => break,
                Read::Plain(request) => connection.exchange(request).await,
                Read::Other(reason) => After::HandOver(reason),
            };
            match after {
                After::Kept => {}
                After::Closed => {
                    connection.close().await;
                    break;
                }
                After::Ended => {
                    // Nobody waits for the end of a plaintext connection but the system.
                    if connection.tls {
                        let _ = timeout(LINGER, connection.client.shutdown()).await;
                    }
                    break;
                }
                After::HandOver(reason) => {
                    self.conduct.metrics.handed_over(reason);
                    // Apart, so that what rests has no room for it.
                    match Box::pin(connection.hand_over()).await {
                        Some(back) => connection = back,
                        None => return,
                    }
                }
            }
            first = false;
        }
        connection.pool.shelf.put(connection.memory);
    }

    fn open<S: IO>(
        self: &Arc<Self>,
        client: S,
        (peer, local): (SocketAddr, SocketAddr),
        stopping: watch::Receiver<bool>,
    ) -> Connection<S> {
        let pool = self.pools.here();
        Connection {
            lane: Arc::clone(self),
            memory: pool.shelf.take(),
            pool,
            tls: client.get_ssl_digest().is_some(),
            client,
            peer,
            local,
            timer: Box::pin(tokio::time::sleep(self.patience.head)),
            requests: 0,
            stopping,
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
                Some(Ok(count)) if count > 0 => {
                    if std::mem::take(&mut resting) {
                        self.wake();
                    }
                }
                Some(_) => return Read::Nothing,
                None if in_head || resting => return Read::Nothing,
                None => {
                    resting = true;
                    self.pool.shelf.put(std::mem::take(&mut self.memory));
                }
            }
        }
    }

    /// A connection that rests reads a little at first: most read nothing.
    fn make_room(&mut self, resting: bool) {
        let up = &mut self.memory.up;
        up.grow(if resting { FIRST_READ } else { READ });
        debug_assert!(READ > MAX_HEAD && !up.is_full());
    }

    /// A connection that has rested works again.
    fn wake(&mut self) {
        let fresh = self.pool.shelf.take();
        let rested = std::mem::replace(&mut self.memory, fresh);
        self.make_room(false);
        self.memory.up.put(rested.up.data());
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

    /// Ends the connection. A client that is still sending what nobody wants is heard for a
    /// moment: a reset could overtake its answer.
    async fn close(&mut self) {
        let _ = timeout(LINGER, async {
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
