//! A stream as a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream of the multiplexed connection, read and written like a socket. Dropped before its end
/// it is reset, and the other side learns that it broke off.
pub struct MuxStream {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// What has arrived and was not read yet.
    chunk: Bytes,
    /// We have said that nothing more comes.
    finished: bool,
    /// The other side has.
    ended: bool,
}

impl std::fmt::Debug for MuxStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MuxStream({:?})", self.send.stream_id())
    }
}

impl MuxStream {
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self {
            send,
            receive,
            chunk: Bytes::new(),
            finished: false,
            ended: false,
        }
    }

    /// Whether nothing has come that was not read, the end included. A stream that has carried an
    /// exchange to its end can carry another one if so.
    pub fn is_idle(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        !self.finished
            && !self.ended
            && self.chunk.is_empty()
            && self.receive.poll_data(&mut cx).is_pending()
    }

    /// Why nothing can be written any more.
    fn broken(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) if reason != Reason::NO_ERROR && reason != Reason::CANCEL => {
                io::Error::new(io::ErrorKind::ConnectionReset, h2::Error::from(reason))
            }
            Poll::Ready(Err(error)) => to_io(error),
            _ => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

/// An error of the connection or the stream as one of a socket.
pub(super) fn to_io(error: h2::Error) -> io::Error {
    if error.is_io()
        && let Some(error) = error.into_io()
    {
        return error;
    }
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                None => self.ended = true,
            }
        }
        let count = self.chunk.len().min(buffer.remaining());
        buffer.put_slice(&self.chunk[..count]);
        self.chunk.advance(count);
        // Only now may the other side send as much again: what is unread stays bounded.
        let released = self.receive.flow_control().release_capacity(count);
        Poll::Ready(released.map_err(to_io))
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.send.reserve_capacity(bytes.len());
        let mut room = self.send.capacity();
        while room == 0 {
            room = match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                None => return Poll::Ready(Err(self.broken(cx))),
            };
        }
        let count = room.min(bytes.len());
        let piece = Bytes::copy_from_slice(&bytes[..count]);
        match self.send.send_data(piece, false) {
            Ok(()) => Poll::Ready(Ok(count)),
            Err(_) => Poll::Ready(Err(self.broken(cx))),
        }
    }

    /// The connection's driver sends on its own account.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        self.finished = true;
        match self.send.send_data(Bytes::new(), true) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err(self.broken(cx))),
        }
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        if !(self.finished && self.ended) {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}
