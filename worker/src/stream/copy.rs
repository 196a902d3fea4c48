//! Bytes both ways until both ends are done, with half-close.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::context::{SpliceEnd, Spliced};

/// Buffer of each direction.
const BUFFER: usize = 8 << 10;

/// Bytes that passed, readable while the stream lives.
#[derive(Debug, Default)]
pub struct Meter {
    /// From the client to the app.
    pub sent: AtomicU64,
    /// From the app to the client.
    pub received: AtomicU64,
    /// The app has stopped sending.
    pub(super) app_done: Notify,
}

/// How long a client may be silent after the app has stopped sending. An app that has closed its
/// connection cannot be told from one that has only stopped speaking; without a bound, a client
/// that lingers would hold the stream for ever.
#[derive(Clone, Copy, Debug)]
pub struct Linger(pub Duration);

impl Meter {
    /// All bytes so far.
    pub fn total(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed)
    }
}

/// Copies both ways. An end that stops sending is told to the other (half-close), and the copy
/// goes on until both have stopped, one has broken off, the client has lingered, or
/// `closed` is cancelled.
pub async fn splice<C, U>(
    client: C,
    upstream: U,
    meter: &Arc<Meter>,
    linger: Linger,
    closed: &CancellationToken,
) -> Spliced
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut client = Metered::new(client, meter, Side::Client);
    let mut upstream = Metered::new(upstream, meter, Side::App);
    let copy = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER);
    until_over(copy, meter, linger, closed).await
}

/// Runs a copy of both ways until it is over, or has to be.
pub(super) async fn until_over<T>(
    copy: impl Future<Output = io::Result<T>>,
    meter: &Meter,
    linger: Linger,
    closed: &CancellationToken,
) -> Spliced {
    let end = tokio::select! {
        result = copy => match result {
            Ok(_) => SpliceEnd::Finished,
            Err(_) => SpliceEnd::Broken,
        },
        () = lingered(meter, linger) => SpliceEnd::Finished,
        () = closed.cancelled() => SpliceEnd::CircuitClosed,
    };
    Spliced {
        sent: meter.sent.load(Ordering::Relaxed),
        received: meter.received.load(Ordering::Relaxed),
        end,
    }
}

/// Completes when the app has stopped sending and the client has been silent for a while since.
async fn lingered(meter: &Meter, Linger(patience): Linger) {
    meter.app_done.notified().await;
    loop {
        let before = meter.sent.load(Ordering::Relaxed);
        tokio::time::sleep(patience).await;
        if meter.sent.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

/// Whose bytes come in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    App,
}

/// A stream whose incoming bytes are counted.
struct Metered<S> {
    inner: S,
    meter: Arc<Meter>,
    side: Side,
}

impl<S> Metered<S> {
    fn new(inner: S, meter: &Arc<Meter>, side: Side) -> Self {
        Self {
            inner,
            meter: Arc::clone(meter),
            side,
        }
    }

    fn note(&self, read: usize, ended: bool) {
        let counter = match self.side {
            Side::Client => &self.meter.sent,
            Side::App => &self.meter.received,
        };
        counter.fetch_add(read as u64, Ordering::Relaxed);
        if ended && self.side == Side::App {
            self.meter.app_done.notify_one();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        let ended = read == 0 && matches!(result, Poll::Ready(Ok(())));
        self.note(read, ended);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    const LINGER: Linger = Linger(Duration::from_secs(1));

    #[tokio::test]
    async fn one_side_may_go_on_after_the_other_has_finished() {
        let (mut client, client_end) = duplex(64);
        let (mut upstream, upstream_end) = duplex(64);
        let meter = Arc::new(Meter::default());
        let closed = CancellationToken::new();
        let ends = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = String::new();
            upstream.read_to_string(&mut question).await.unwrap();
            upstream.write_all(b"late answer").await.unwrap();
            upstream.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            (question, answer)
        };
        let (spliced, (question, answer)) = tokio::join!(
            splice(client_end, upstream_end, &meter, LINGER, &closed),
            ends
        );
        assert_eq!(
            (question.as_str(), answer.as_str()),
            ("question", "late answer")
        );
        assert_eq!(
            spliced,
            Spliced {
                sent: 8,
                received: 11,
                end: SpliceEnd::Finished
            }
        );
    }

    #[tokio::test]
    async fn a_closed_circuit_ends_it() {
        let (_client, client_end) = duplex(64);
        let (_upstream, upstream_end) = duplex(64);
        let closed = CancellationToken::new();
        closed.cancel();
        let spliced = splice(client_end, upstream_end, &Arc::default(), LINGER, &closed).await;
        assert_eq!(spliced.end, SpliceEnd::CircuitClosed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_lingers_after_the_app_has_gone_is_let_go() {
        let (mut client, client_end) = duplex(64);
        let (upstream, upstream_end) = duplex(64);
        drop(upstream);
        let closed = CancellationToken::new();
        let spliced = splice(client_end, upstream_end, &Arc::default(), LINGER, &closed).await;
        assert_eq!(spliced.end, SpliceEnd::Finished);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
}
