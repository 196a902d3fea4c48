//! A buffer that is read into at its end and consumed at its beginning.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Bytes on their way.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Makes room for `size` bytes in all, keeping what is there.
    pub(super) fn grow(&mut self, size: usize) {
        if size > self.bytes.len() {
            let mut larger = vec![0; size].into_boxed_slice();
            larger[..self.end - self.start].copy_from_slice(self.data());
            self.bytes = larger;
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// The bytes that have been read and not been consumed.
    pub(super) fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn is_full(&self) -> bool {
        self.end - self.start == self.bytes.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// The first `count` bytes have been used.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Reads once; the number of bytes, 0 at the end of the stream or if there is no room.
    pub(super) fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
    ) -> Poll<io::Result<usize>> {
        if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let mut room = ReadBuf::new(&mut self.bytes[self.end..]);
        ready!(Pin::new(from).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.end += read;
        Poll::Ready(Ok(read))
    }
}
