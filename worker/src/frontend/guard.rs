//! A client's connection under guard: a request's head has to be complete in time however slowly
//! its bytes trickle in, and a connection whose circuit closes is cut, even while both ends are
//! silent. Pingora's own time-out begins anew with every read (pingora-notes.md, "Slowloris").

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsRef};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::AsyncWriteExt as _;
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Bytes of small writes gathered until they are flushed: a head and a short body leave in one
/// packet. Pingora's own buffer cannot be set on streams it has not accepted itself.
const WRITE_BUFFER: usize = 1_460;

/// What the connection is at.
mod phase {
    /// Nothing asked: the next byte begins a head.
    pub(super) const IDLE: u8 = 0;
    /// A head is on its way.
    pub(super) const HEAD: u8 = 1;
    /// A request is being carried.
    pub(super) const REQUEST: u8 = 2;
    /// The connection is a stream now and guarded by others.
    pub(super) const FREE: u8 = 3;
}

/// Tells a guarded connection what it is at.
#[derive(Debug)]
pub struct Control {
    phase: AtomicU8,
    heads: AtomicU32,
    closed: Mutex<Option<CancellationToken>>,
}

impl Control {
    /// The head has been read; the request goes over a circuit, and ends when that closes.
    pub fn carry(&self, closed: &CancellationToken) {
        self.set(phase::REQUEST, Some(closed.clone()));
    }

    /// The head has been read. Answers how many there have been on this connection.
    pub fn head_read(&self) -> u32 {
        self.set(phase::REQUEST, None);
        self.heads.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// The request has been answered.
    pub fn rest(&self) {
        self.set(phase::IDLE, None);
    }

    /// The connection is a stream from now on.
    pub fn free(&self) {
        self.set(phase::FREE, None);
    }

    fn set(&self, phase: u8, closed: Option<CancellationToken>) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        self.phase.store(phase, Ordering::Release);
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    fn token(&self) -> Option<CancellationToken> {
        self.closed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A connection under guard.
pub struct Guarded<S> {
    inner: BufWriter<S>,
    control: Control,
    patience: Duration,
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<S: AsyncWrite> Guarded<S> {
    /// Guards a fresh connection, which has `patience` to send its first head.
    pub fn new(inner: S, patience: Duration) -> Self {
        Self {
            inner: BufWriter::with_capacity(WRITE_BUFFER, inner),
            control: Control {
                phase: AtomicU8::new(phase::HEAD),
                heads: AtomicU32::new(0),
                closed: Mutex::new(None),
            },
            patience,
            deadline: Instant::now() + patience,
            timer: None,
            closing: None,
        }
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    /// The connection without its guard, with nothing left to be sent; `None` if that fails.
    pub async fn into_inner(mut self) -> Option<S> {
        self.inner.flush().await.ok()?;
        Some(self.inner.into_inner())
    }
}

impl<S> Guarded<S> {
    /// What tells it what it is at.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Whether the circuit of the request has closed. Registers to be woken if it has not.
    fn circuit_closed(&mut self, cx: &mut Context<'_>) -> bool {
        if self.control.phase() != phase::REQUEST {
            self.closing = None;
            return false;
        }
        if self.closing.is_none() {
            let token = self.control.token();
            self.closing = token.map(|token| Box::pin(token.cancelled_owned()));
        }
        self.closing
            .as_mut()
            .is_some_and(|closing| closing.as_mut().poll(cx).is_ready())
    }

    /// Whether the head has taken too long. Registers to be woken when it has.
    fn head_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self.deadline;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.control.phase() == phase::REQUEST && self.circuit_closed(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if polled.is_pending() && !self.inner.buffer().is_empty() {
            // Whoever waits for the client has nothing more to write at the moment. Pingora does
            // not flush an answer of known length before its end, and the piece that is here must
            // not wait for one that may be minutes away. A failure shows at the next write.
            let _ = Pin::new(&mut self.inner).poll_flush(cx);
        }
        match (&polled, self.control.phase()) {
            (Poll::Ready(_), phase::IDLE) => {
                self.deadline = Instant::now() + self.patience;
                self.control.phase.store(phase::HEAD, Ordering::Release);
            }
            (Poll::Pending, phase::HEAD) if self.head_overdue(cx) => {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            _ => {}
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if polled.is_pending() && self.circuit_closed(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<S: AsyncWrite + fmt::Debug> fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guarded")
            .field(self.inner.get_ref())
            .finish()
    }
}

#[async_trait]
impl<S: IO> Shutdown for Guarded<S> {
    async fn shutdown(&mut self) {
        // What is gathered must not be lost with the connection; if it cannot leave, nobody is
        // there to miss it.
        let _ = self.inner.flush().await;
        self.inner.get_mut().shutdown().await;
    }
}

impl<S: IO> UniqueID for Guarded<S> {
    fn id(&self) -> UniqueIDType {
        self.inner.get_ref().id()
    }
}

impl<S: IO> Ssl for Guarded<S> {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ref().get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ref().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.get_ref().selected_alpn_proto()
    }
}

impl<S: IO> GetTimingDigest for Guarded<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_ref().get_timing_digest()
    }
}

impl<S: IO> GetProxyDigest for Guarded<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_ref().get_proxy_digest()
    }
}

impl<S: IO> GetSocketDigest for Guarded<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_ref().get_socket_digest()
    }
}

#[async_trait]
impl<S: IO> Peek for Guarded<S> {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        self.inner.get_mut().try_peek(buffer).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, duplex};

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_in_is_cut_off_in_total() {
        let (mut client, server) = duplex(64);
        let mut guarded = Guarded::new(server, PATIENCE);
        let trickle = async {
            loop {
                if client.write_all(b"x").await.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let started = Instant::now();
        let read = async {
            let mut byte = [0];
            loop {
                if let Err(error) = guarded.read_exact(&mut byte).await {
                    return error.kind();
                }
            }
        };
        let kind = tokio::select! {
            () = trickle => unreachable!(),
            kind = read => kind,
        };
        assert_eq!(kind, io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), PATIENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_its_time_and_the_next_head_has_a_deadline_of_its_own() {
        let (mut client, server) = duplex(64);
        let mut guarded = Guarded::new(server, PATIENCE);
        guarded.control().head_read();
        let mut byte = [0];
        let long = PATIENCE * 5;
        assert!(
            tokio::time::timeout(long, guarded.read_exact(&mut byte))
                .await
                .is_err()
        );
        guarded.control().rest();
        assert!(
            tokio::time::timeout(long, guarded.read_exact(&mut byte))
                .await
                .is_err()
        );
        client.write_all(b"G").await.unwrap();
        guarded.read_exact(&mut byte).await.unwrap();
        let started = Instant::now();
        let error = guarded.read_exact(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), PATIENCE.as_secs());
    }

    #[tokio::test]
    async fn a_silent_request_ends_when_its_circuit_closes() {
        let (_client, server) = duplex(64);
        let mut guarded = Guarded::new(server, PATIENCE);
        let closed = CancellationToken::new();
        guarded.control().carry(&closed);
        let mut byte = [0];
        let close = async {
            tokio::task::yield_now().await;
            closed.cancel();
        };
        let (read, ()) = tokio::join!(guarded.read_exact(&mut byte), close);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
