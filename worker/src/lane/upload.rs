//! A request's body on its way to the app, while the answer may come back already.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use pingora_core::protocols::IO;
use tokio::io::AsyncWrite as _;

use super::chunks::Chunks;
use super::connection::READ;
use super::flow::{Broken, Flow};
use super::request::Body;

/// What is still to come of a body.
#[derive(Clone, Copy, Debug)]
pub(super) enum Upload {
    /// So many bytes.
    Length(u64),
    /// Chunks. The app gets chunks of our own: nothing a client writes between the data, size lines
    /// and trailers included, is there for anybody else to read in another way.
    Chunked(Chunks),
}

impl Upload {
    /// Nothing of the body has been taken yet but its first `taken` bytes.
    pub(super) fn of(body: Body, taken: u64) -> Self {
        match body {
            Body::Length(length) => Self::Length(length - taken.min(length)),
            Body::Chunked => Self::Chunked(Chunks::new()),
        }
    }

    /// Whether all of it has been taken from the client.
    pub(super) fn ended(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.ended(),
        }
    }
}

impl<S: IO> Flow<'_, S> {
    /// The whole request is with the app.
    pub(super) fn uploaded(&self) -> bool {
        self.upload.ended() && self.sent == self.request.len() && !self.refused
    }

    /// Moves the request on as far as it goes; when it is through, looks whether the client is
    /// still there.
    pub(super) fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while !self.refused {
            self.frame_anew()?;
            let from_client = self.sent == self.request.len();
            if from_client && self.upload.ended() {
                break;
            }
            if from_client && self.up.is_empty() {
                match self.up.poll_fill(cx, self.client) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(0)) => return Err(Broken::Client("ConnectionClosed")),
                    Poll::Ready(Ok(_)) => continue,
                    Poll::Ready(Err(_)) => return Err(Broken::Client("ReadError")),
                }
            }
            let piece = match (from_client, self.upload) {
                (false, _) => &self.request[self.sent..],
                (true, Upload::Length(left)) => {
                    let data = self.up.data();
                    &data[..data.len().min(usize::try_from(left).unwrap_or(usize::MAX))]
                }
                // What was there has been read: it was framing, and there is more to come.
                (true, Upload::Chunked(_)) => continue,
            };
            match Pin::new(&mut *self.upstream).poll_write(cx, piece) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(count)) if count > 0 => self.passed(count, from_client),
                Poll::Ready(_) => self.refused = true,
            }
        }
        if self.upload.ended() {
            self.watch(cx)?;
        }
        Ok(())
    }

    /// So much has left for the app.
    fn passed(&mut self, count: usize, from_client: bool) {
        self.moved();
        match &mut self.upload {
            Upload::Length(left) if from_client => {
                self.up.consume(count);
                *left -= count as u64;
                self.bytes_in += count as u64;
            }
            _ => self.sent += count,
        }
    }

    /// Puts what has come of a body in chunks behind what is to be sent, in chunks of our own.
    fn frame_anew(&mut self) -> Result<(), Broken> {
        let Upload::Chunked(chunks) = &mut self.upload else {
            return Ok(());
        };
        if self.sent == self.request.len() {
            self.request.clear();
            self.sent = 0;
        }
        while !chunks.ended() && !self.up.is_empty() && self.request.len() < READ {
            let taken = chunks.take(self.up.data());
            let (used, data) = taken.map_err(|_| Broken::Client("InvalidChunk"))?;
            if data > 0 {
                // Writing to memory cannot fail.
                let _ = write!(self.request, "{data:x}\r\n");
                let piece = &self.up.data()[used - data..used];
                self.request.extend_from_slice(piece);
                self.request.extend_from_slice(b"\r\n");
                self.bytes_in += data as u64;
            }
            self.up.consume(used);
            if chunks.ended() {
                self.request.extend_from_slice(b"0\r\n\r\n");
            }
            if self.limit != 0 && self.bytes_in > self.limit {
                return Err(Broken::TooLarge);
            }
        }
        Ok(())
    }

    /// A client that goes away ends the exchange; one that sends its next request is heard later.
    fn watch(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while !self.up.is_full() {
            match self.up.poll_fill(cx, self.client) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(Broken::Client("ConnectionClosed")),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Err(Broken::Client("ReadError")),
            }
        }
        Ok(())
    }
}
