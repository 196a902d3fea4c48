//! A client's connection under guard: a request's head has to be complete in time however slowly
//! its bytes trickle in, and a connection whose circuit closes is cut, even while both ends are
//! silent. Pingora's own time-out begins anew with every read (pingora-notes.md, "Slowloris").

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
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
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufWriter, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::wire::{PREFACE, Wire};

/// Bytes of small writes gathered until they are flushed: a head and a short body leave in one
/// packet. Pingora's own buffer cannot be set on streams it has not accepted itself.
const WRITE_BUFFER: usize = 1_460;

/// How long, and for how much, a client is heard that has its last answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

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
    strange: AtomicBool,
}

impl Control {
    /// The guard of a stream of HTTP/2, whose head has been read.
    pub fn of_stream() -> Self {
        Self {
            heads: AtomicU32::new(0),
            phase: AtomicU8::new(phase::REQUEST),
            closed: Mutex::new(None),
            strange: AtomicBool::new(false),
        }
    }

    /// Whether the last request line had white space or controls where none may be (RFC 9112 §3).
    /// Pingora escapes them before anybody else sees the line.
    pub fn line_is_strange(&self) -> bool {
        self.strange.load(Ordering::Acquire)
    }

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

    /// Cancelled when the circuit of the request closes.
    pub fn token(&self) -> Option<CancellationToken> {
        self.closed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The preface, and the head of the frame of settings that has to follow.
const OPENING: usize = PREFACE.len() + 9;
/// Where the kind of that frame stands, and which it is (RFC 9113 §3.4, §4.1, §6.5).
const FIRST_FRAME_KIND: usize = PREFACE.len() + 3;
const SETTINGS: u8 = 4;

/// A request line as it comes by.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    spaces: u8,
    begun: bool,
    carriage_return: bool,
    strange: bool,
    over: bool,
}

impl Line {
    /// Follows it through these bytes; answers whether it is strange so far.
    fn follow(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if self.over {
                break;
            }
            match byte {
                // Empty lines before it are passed over (RFC 9112 §2.2).
                b'\r' | b'\n' if !self.begun => continue,
                b'\n' => self.over = true,
                // Only at the end.
                _ if self.carriage_return => self.strange = true,
                b'\r' => self.carriage_return = true,
                b' ' => self.spaces = self.spaces.saturating_add(1),
                0..=0x1f | 0x7f => self.strange = true,
                _ => {}
            }
            self.begun = true;
        }
        self.strange || self.spaces > 2
    }
}

/// A connection under guard.
pub struct Guarded<S> {
    inner: BufWriter<S>,
    control: Control,
    patience: Duration,
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    wire: Wire,
    line: Line,
    /// What is still to come of the opening of HTTP/2.
    opening: usize,
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// What has been read before and is read again first.
    unread: Vec<u8>,
}

impl<S: AsyncWrite> Guarded<S> {
    /// Guards a fresh connection, which has `patience` to send its first head.
    pub fn new(inner: S, wire: Wire, patience: Duration) -> Self {
        Self {
            inner: BufWriter::with_capacity(WRITE_BUFFER, inner),
            control: Control {
                phase: AtomicU8::new(phase::HEAD),
                heads: AtomicU32::new(0),
                closed: Mutex::new(None),
                strange: AtomicBool::new(false),
            },
            line: Line::default(),
            patience,
            deadline: Instant::now() + patience,
            timer: None,
            wire,
            opening: OPENING,
            closing: None,
            unread: Vec::new(),
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

impl<S: AsyncRead + AsyncWrite + Unpin> Guarded<S> {
    /// Reads what a client still sends that has its last answer. Bytes that are unread when a
    /// connection closes make the system reset it, and a reset overtakes the answer (RFC 9112 §9.6).
    async fn hear_out(&mut self) -> io::Result<()> {
        let mut left = LINGER_BYTES;
        let mut unwanted = [0; 4_096];
        while left > 0 {
            let read = self.inner.get_mut().read(&mut unwanted).await?;
            if read == 0 {
                break;
            }
            left = left.saturating_sub(read);
        }
        Ok(())
    }
}

impl<S> Guarded<S> {
    /// What was read of its first head before it came under guard.
    #[must_use]
    pub fn after(mut self, read: &[u8]) -> Self {
        let strange = self.line.follow(read);
        self.control.strange.store(strange, Ordering::Release);
        self
    }

    /// Reads this first, which has been read before to see what it is.
    #[must_use]
    pub fn again(mut self, unread: Vec<u8>) -> Self {
        self.unread = unread;
        self
    }

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
        let filled = buffer.filled().len();
        let polled = if self.unread.is_empty() {
            Pin::new(&mut self.inner).poll_read(cx, buffer)
        } else {
            let count = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread[..count]);
            self.unread.drain(..count);
            Poll::Ready(Ok(()))
        };
        if polled.is_pending() && !self.inner.buffer().is_empty() {
            // Whoever waits for the client has nothing more to write at the moment. Pingora does
            // not flush an answer of known length before its end, and the piece that is here must
            // not wait for one that may be minutes away. A failure shows at the next write.
            let _ = Pin::new(&mut self.inner).poll_flush(cx);
        }
        match (&polled, self.control.phase()) {
            (Poll::Ready(_), phase::HEAD) if self.wire == Wire::Http2 => {
                let came = buffer.filled().get(filled..).unwrap_or_default();
                // The library does not mind which frame comes first.
                let kind = (OPENING - self.opening..).zip(came);
                let mut kind = kind.filter(|(place, _)| *place == FIRST_FRAME_KIND);
                if kind.any(|(_, kind)| *kind != SETTINGS) {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                self.opening = self.opening.saturating_sub(came.len());
                if self.opening == 0 {
                    self.control.free();
                }
            }
            (Poll::Ready(_), phase::IDLE) => {
                self.line = Line::default();
                let came = buffer.filled().get(filled..).unwrap_or_default();
                let strange = self.line.follow(came);
                self.control.strange.store(strange, Ordering::Release);
                self.deadline = Instant::now() + self.patience;
                self.control.phase.store(phase::HEAD, Ordering::Release);
            }
            (Poll::Ready(_), phase::HEAD) => {
                let came = buffer.filled().get(filled..).unwrap_or_default();
                let strange = self.line.follow(came);
                self.control.strange.store(strange, Ordering::Release);
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
        if self.wire == Wire::Http1 {
            let _ = tokio::time::timeout(LINGER, self.hear_out()).await;
        }
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
    /// Pingora asks for one thing only: whether a plaintext connection begins as HTTP/2. The
    /// frontend has seen that already, and reading as many bytes as the preface has would hold up
    /// a request that is shorter.
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        buffer.fill(0);
        if self.wire == Wire::Http2 && buffer.len() == PREFACE.len() {
            buffer.copy_from_slice(PREFACE);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
