//! The bytes of one exchange, both directions at once: the request to the app while its answer
//! comes back, each side slowed down by the other's pace, nothing held but two buffers.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pingora_core::protocols::IO;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::buffer::Buffer;
use super::head::Field;
use super::response::{self, Framing, Response};
use super::upload::Upload;
use crate::conduct::{Pulse, Tokens};

/// Shorter bodies are copied behind the head: one buffer costs the system less than two.
const COPIED: usize = 4_096;
/// What is read at once of bodies longer than that.
pub(super) const BULK: usize = 64 * 1_024;

/// Why an exchange came to no good end, in the words of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The client went away.
    Client(&'static str),
    /// The app broke off, or said something that is not an answer.
    Upstream(&'static str),
    /// The app has said nothing for longer than the route allows.
    Silent,
    /// The answer is one for which another upstream is asked.
    Refused,
    /// The body is longer than it may be.
    TooLarge,
    /// The circuit was closed.
    Closed,
}

/// How long the app may say nothing.
pub(super) struct Silence {
    most: Duration,
    over: Pin<Box<Sleep>>,
}

impl Silence {
    pub(super) fn new(most: Duration) -> Self {
        Self {
            most,
            over: Box::pin(tokio::time::sleep(most)),
        }
    }
}

/// One exchange under way.
pub(super) struct Flow<'a, S> {
    pub(super) client: &'a mut S,
    pub(super) upstream: &'a mut TcpStream,
    /// What comes from the client: the body, and perhaps the next request.
    pub(super) up: &'a mut Buffer,
    /// The request's head with as much of the body as came with it, later pieces of a body in
    /// chunks.
    pub(super) request: &'a mut Vec<u8>,
    /// How much of that is sent.
    pub(super) sent: usize,
    /// The body that is still to be taken from the client.
    pub(super) upload: Upload,
    /// Most bytes it may have; 0: any number.
    pub(super) limit: u64,
    /// The app takes no more of the request. It may have answered all the same.
    pub(super) refused: bool,
    /// What comes from the app.
    pub(super) down: &'a mut Buffer,
    /// The answer's head, or the line before a piece.
    pub(super) out: &'a mut Vec<u8>,
    pub(super) out_sent: usize,
    /// Bytes at the front of `down` that are to be sent next.
    pub(super) ready: usize,
    /// What follows them.
    pub(super) tail: &'static [u8],
    /// Something of an answer has been read.
    pub(super) answered: bool,
    /// Something of what is being sent has left.
    pub(super) began: bool,
    /// Follows a model's answer.
    pub(super) tokens: Option<Tokens>,
    /// Hears of what moves, where time-outs are set.
    pub(super) pulse: Option<Pulse>,
    /// Body bytes from and to the client.
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// Where there is a limit to it.
    pub(super) silence: Option<Silence>,
}

impl<S: IO> Flow<'_, S> {
    /// Reads from the app once, which may not be silent for ever.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        let read = self.down.poll_fill(cx, self.upstream);
        if let Some(silence) = &mut self.silence {
            match read {
                Poll::Ready(_) => silence.over.as_mut().reset(Instant::now() + silence.most),
                Poll::Pending if silence.over.as_mut().poll(cx).is_ready() => {
                    return Poll::Ready(Err(Broken::Silent));
                }
                Poll::Pending => {}
            }
        }
        read.map_err(|_| Broken::Upstream("ReadError"))
    }

    /// Tells the time-outs, where there are any, that something moved.
    pub(super) fn moved(&self) {
        if let Some(pulse) = &self.pulse {
            pulse.moved();
        }
    }

    /// The next head of an answer, interim ones included. It is left in `down`.
    pub(super) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        to_head: bool,
        fields: &mut Vec<Field>,
    ) -> Poll<Result<Response, Broken>> {
        loop {
            self.poll_up(cx)?;
            if !self.down.is_empty() {
                match response::look(self.down.data(), to_head, fields) {
                    Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                    Ok(None) => {
                        if self.down.is_full() {
                            self.down.grow(self.down.capacity() * 2);
                        }
                    }
                    Err(_) => return Poll::Ready(Err(Broken::Upstream("InvalidHTTPHeader"))),
                }
            }
            if ready!(self.poll_down(cx))? == 0 {
                return Poll::Ready(Err(Broken::Upstream("ConnectionClosed")));
            }
            self.answered = true;
        }
    }

    /// Begins the answer's body with what came along with the head.
    pub(super) fn begin_body(&mut self, framing: &mut Framing) -> Result<(), Broken> {
        self.out_sent = 0;
        self.began = false;
        self.frame(framing)?;
        if self.ready <= COPIED && self.tail.is_empty() {
            self.out.extend_from_slice(&self.down.data()[..self.ready]);
            self.down.consume(self.ready);
            self.ready = 0;
        }
        Ok(())
    }

    /// Tells how much of what has been read belongs to the body.
    fn frame(&mut self, framing: &mut Framing) -> Result<(), Broken> {
        let here = self.down.data().len();
        self.ready = match framing {
            Framing::Length(left) => {
                let ready = here.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= ready as u64;
                self.bytes_out += ready as u64;
                follow(&mut self.tokens, &self.down.data()[..ready]);
                ready
            }
            Framing::Chunked(chunks) => {
                let before = chunks.data;
                let tokens = &mut self.tokens;
                let ready = chunks.scan(self.down.data(), |piece| follow(tokens, piece));
                self.bytes_out += chunks.data - before;
                ready.map_err(|_| Broken::Upstream("InvalidChunk"))?
            }
            Framing::UntilClose if here > 0 => {
                // Chunked from here on, so that the client can tell the end from a break.
                self.out
                    .extend_from_slice(format!("{here:x}\r\n").as_bytes());
                self.tail = b"\r\n";
                self.bytes_out += here as u64;
                follow(&mut self.tokens, self.down.data());
                here
            }
            Framing::UntilClose => 0,
        };
        Ok(())
    }

    /// Sends what is in `out` and carries the body to its end.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
        flows: &mut impl FnMut(),
    ) -> Poll<Result<(), Broken>> {
        loop {
            self.poll_up(cx)?;
            ready!(self.poll_out(cx))?;
            if ended(framing) {
                return self.poll_flush(cx);
            }
            if self.down.is_empty() && is_long(framing) {
                self.down.grow(BULK);
            }
            let Poll::Ready(read) = self.poll_down(cx)? else {
                // What the client has not got yet must not wait for what comes next.
                let _ = self.poll_flush(cx)?;
                return Poll::Pending;
            };
            match (read, &framing) {
                (0, Framing::UntilClose) => {
                    self.out.extend_from_slice(b"0\r\n\r\n");
                    *framing = Framing::Length(0);
                }
                (0, _) => return Poll::Ready(Err(Broken::Upstream("ConnectionClosed"))),
                _ => self.frame(framing)?,
            }
            flows();
        }
    }

    /// Sends `out`, what is ready of `down`, and what follows it.
    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            let head = &self.out[self.out_sent..];
            let body = &self.down.data()[..self.ready];
            let total = head.len() + body.len() + self.tail.len();
            if total == 0 {
                self.out.clear();
                self.out_sent = 0;
                return Poll::Ready(Ok(()));
            }
            let client = Pin::new(&mut *self.client);
            let written = if head.len() == total {
                ready!(client.poll_write(cx, head))
            } else if body.len() == total {
                ready!(client.poll_write(cx, body))
            } else {
                let pieces = [head, body, self.tail].map(IoSlice::new);
                ready!(client.poll_write_vectored(cx, &pieces))
            };
            self.advance(written.map_err(|_| Broken::Client("WriteError"))?)?;
        }
    }

    fn advance(&mut self, written: usize) -> Result<(), Broken> {
        if written == 0 {
            return Err(Broken::Client("WriteError"));
        }
        self.moved();
        let of_head = written.min(self.out.len() - self.out_sent);
        self.out_sent += of_head;
        self.began = true;
        let of_body = (written - of_head).min(self.ready);
        self.down.consume(of_body);
        self.ready -= of_body;
        self.tail = self
            .tail
            .get(written - of_head - of_body..)
            .unwrap_or_default();
        Ok(())
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let flushed: Poll<io::Result<()>> = Pin::new(&mut *self.client).poll_flush(cx);
        flushed.map_err(|_| Broken::Client("WriteError"))
    }
}

fn follow(tokens: &mut Option<Tokens>, piece: &[u8]) {
    if let Some(tokens) = tokens {
        tokens.see(piece);
    }
}

/// Whether the body has been read to its end.
fn ended(framing: &Framing) -> bool {
    match framing {
        Framing::Length(left) => *left == 0,
        Framing::Chunked(chunks) => chunks.ended(),
        Framing::UntilClose => false,
    }
}

/// Whether so much is still to come that it is worth a larger buffer.
fn is_long(framing: &Framing) -> bool {
    match framing {
        Framing::Length(left) => *left > BULK as u64,
        Framing::Chunked(chunks) => chunks.data > BULK as u64,
        Framing::UntilClose => false,
    }
}
