//! A buffer that is read into at its end and consumed at its beginning.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// Bytes on their way.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// Never grown but by `grow`.
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// Makes room for `size` bytes in all, keeping what is there.
    pub(super) fn grow(&mut self, size: usize) {
        if size > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
            self.bytes.reserve_exact(size - self.bytes.len());
        }
    }

    /// The bytes that have been read and not been consumed.
    pub(super) fn data(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() - self.start == self.bytes.capacity()
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// The first `count` bytes have been used.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        if self.is_empty() {
            self.clear();
        }
    }

    /// Adds these bytes, for which there is room.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        debug_assert!(self.bytes.len() + bytes.len() <= self.bytes.capacity());
        self.bytes.extend_from_slice(bytes);
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Reads once; the number of bytes, 0 at the end of the stream or if there is no room.
    pub(super) fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.len() == self.bytes.capacity() && self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        if self.is_full() {
            return Poll::Ready(Ok(0));
        }
        poll_read_buf(Pin::new(from), cx, &mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn what_is_consumed_makes_room_and_nothing_grows_by_itself() {
        let mut buffer = Buffer::default();
        buffer.grow(8);
        let mut source = &b"0123456789abcdef"[..];
        let read = poll_fn(|cx| buffer.poll_fill(cx, &mut source)).await;
        assert_eq!((read.unwrap(), buffer.data()), (8, &b"01234567"[..]));
        let read = poll_fn(|cx| buffer.poll_fill(cx, &mut source)).await;
        assert_eq!((read.unwrap(), buffer.is_full()), (0, true));
        buffer.consume(3);
        let read = poll_fn(|cx| buffer.poll_fill(cx, &mut source)).await;
        assert_eq!((read.unwrap(), buffer.data()), (3, &b"3456789a"[..]));
        assert_eq!(buffer.capacity(), 8);
        buffer.grow(16);
        assert_eq!((buffer.data(), buffer.capacity()), (&b"3456789a"[..], 16));
        buffer.consume(8);
        assert!(buffer.is_empty());
    }
}
