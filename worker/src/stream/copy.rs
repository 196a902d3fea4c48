//! Bytes both ways until both ends are done, with half-close.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
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
}

impl Meter {
    /// All bytes so far.
    pub fn total(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed)
    }
}

/// Copies both ways. An end that stops sending is told to the other (half-close), and the copy
/// goes on until both have stopped, one has broken off, or `closed` is cancelled.
pub async fn splice<C, U>(
    client: C,
    upstream: U,
    meter: &Arc<Meter>,
    closed: &CancellationToken,
) -> Spliced
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut client = Metered::new(client, meter, |meter| &meter.sent);
    let mut upstream = Metered::new(upstream, meter, |meter| &meter.received);
    let copy = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER);
    let end = tokio::select! {
        result = copy => match result {
            Ok(_) => SpliceEnd::Finished,
            Err(_) => SpliceEnd::Broken,
        },
        () = closed.cancelled() => SpliceEnd::CircuitClosed,
    };
    Spliced {
        sent: meter.sent.load(Ordering::Relaxed),
        received: meter.received.load(Ordering::Relaxed),
        end,
    }
}

/// A stream whose incoming bytes are counted.
struct Metered<S> {
    inner: S,
    meter: Arc<Meter>,
    counter: fn(&Meter) -> &AtomicU64,
}

impl<S> Metered<S> {
    fn new(inner: S, meter: &Arc<Meter>, counter: fn(&Meter) -> &AtomicU64) -> Self {
        Self {
            inner,
            meter: Arc::clone(meter),
            counter,
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
        (self.counter)(&self.meter).fetch_add(read as u64, Ordering::Relaxed);
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
        let (spliced, (question, answer)) =
            tokio::join!(splice(client_end, upstream_end, &meter, &closed), ends);
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
        let spliced = splice(client_end, upstream_end, &Arc::default(), &closed).await;
        assert_eq!(spliced.end, SpliceEnd::CircuitClosed);
    }
}
