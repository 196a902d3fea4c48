//! Follows the frames of a WebSocket (RFC 6455 §5.2) while they pass, without touching a byte: so
//! that a message can be told of, data be told from pings, and a close frame be put between two
//! frames when the worker itself has to end the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use patchbay_common::request_id::RequestId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest head of a frame.
const HEAD: usize = 14;
const CLOSE: u8 = 8;

/// Follows one direction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the frame's payload that are still to come.
    left: u64,
    /// Kind and size so far of a message in fragments.
    message: Option<(u8, u64)>,
    closed: bool,
    /// What came is no frame: nothing is said of what follows.
    lost: bool,
}

/// A message, or a control frame, that has passed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) opcode: u8,
    /// Bytes of payload as they were sent, compressed or not.
    pub(super) size: u64,
}

impl Message {
    fn is_data(self) -> bool {
        self.opcode < CLOSE
    }

    /// The name of its kind.
    fn kind(self) -> &'static str {
        match self.opcode {
            1 => "text",
            2 => "binary",
            CLOSE => "close",
            9 => "ping",
            10 => "pong",
            _ => "other",
        }
    }
}

impl Frames {
    /// Follows these bytes; `passed` hears of each message when its last frame begins.
    pub(super) fn follow(&mut self, mut bytes: &[u8], mut passed: impl FnMut(Message)) {
        while !bytes.is_empty() && !self.lost {
            if self.left > 0 {
                let here = self.left.min(bytes.len() as u64);
                self.left -= here;
                bytes = &bytes[here as usize..];
                continue;
            }
            self.head[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if self.have >= 2 && self.have == self.head_length() {
                self.begin(&mut passed);
            }
        }
    }

    /// Whether a frame of the worker's own may be put here.
    fn takes_close(&self) -> bool {
        self.have == 0 && self.left == 0 && !self.closed && !self.lost
    }

    fn head_length(&self) -> usize {
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }

    fn begin(&mut self, passed: &mut impl FnMut(Message)) {
        let mut length = [0; 8];
        let size = match self.head[1] & 0x7f {
            126 => {
                length[6..].copy_from_slice(&self.head[2..4]);
                u64::from_be_bytes(length)
            }
            127 => {
                length.copy_from_slice(&self.head[2..10]);
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        self.have = 0;
        self.left = size;
        let (last, opcode) = (self.head[0] & 0x80 != 0, self.head[0] & 0x0f);
        let message = match (opcode, self.message) {
            (CLOSE.., _) => {
                self.closed |= opcode == CLOSE;
                return passed(Message { opcode, size });
            }
            (0, Some((kind, before))) => (kind, before.saturating_add(size)),
            (0, None) => {
                self.lost = true;
                return;
            }
            (kind, _) => (kind, size),
        };
        self.message = (!last).then_some(message);
        if last {
            let (opcode, size) = message;
            passed(Message { opcode, size });
        }
    }
}

/// What is done with what passes.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Counts messages that carry data.
    pub data: Arc<AtomicU64>,
    /// Writes a line for each message, by ids of this one's making.
    pub log: Option<RequestId>,
}

impl Watch {
    fn passed(&self, direction: &'static str, message: Message) {
        if message.is_data() {
            self.data.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(id) = &self.log {
            let (id, size) = (id.message_id(), message.size);
            log::info!(
                request_id = id.as_str(), direction = direction, opcode = message.kind(), size = size;
                "WebSocket message"
            );
        }
    }
}

/// One end of a WebSocket; what is written to it is followed.
pub(super) struct Watched<S> {
    inner: S,
    frames: Frames,
    watch: Watch,
    /// Where what is written to it goes.
    direction: &'static str,
    /// Frames of clients are masked (RFC 6455 §5.3).
    masks: bool,
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    /// The client's end.
    pub(super) fn client(inner: S, watch: Watch) -> Self {
        Self::new(inner, watch, "to-client", false)
    }

    /// The app's end.
    pub(super) fn app(inner: S, watch: Watch) -> Self {
        Self::new(inner, watch, "to-app", true)
    }

    fn new(inner: S, watch: Watch, direction: &'static str, masks: bool) -> Self {
        Self {
            inner,
            frames: Frames::default(),
            watch,
            direction,
            masks,
        }
    }

    /// The close frame that tells this end why, where one may stand.
    pub(super) fn close_frame(&self, code: u16, reason: &str) -> Option<Vec<u8>> {
        let length = u8::try_from(2 + reason.len()).ok()?;
        if !self.frames.takes_close() || length > 125 {
            return None;
        }
        let mut frame = vec![0x80 | CLOSE];
        if self.masks {
            // A mask of zeros leaves the bytes as they are.
            frame.extend([0x80 | length, 0, 0, 0, 0]);
        } else {
            frame.push(length);
        }
        frame.extend(code.to_be_bytes());
        frame.extend(reason.as_bytes());
        Some(frame)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, bytes))?;
        let (watch, direction) = (&this.watch, this.direction);
        let passed = |message| watch.passed(direction, message);
        this.frames
            .follow(bytes.get(..written).unwrap_or_default(), passed);
        Poll::Ready(Ok(written))
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

    /// A frame of this kind and size, masked or not.
    fn frame(first: u8, size: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![first];
        match size {
            0..126 => frame.push(mask | size as u8),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend((size as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((size as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend([1, 2, 3, 4]);
        }
        frame.extend(std::iter::repeat_n(0x81, size));
        frame
    }

    fn message(opcode: u8, size: u64) -> Message {
        Message { opcode, size }
    }

    #[test]
    fn messages_are_told_however_the_bytes_are_cut() {
        let bytes = [
            frame(0x81, 5, true),
            frame(0x82, 300, false),
            // A text in three fragments with a ping between.
            frame(0x01, 10, true),
            frame(0x89, 0, true),
            frame(0x00, 20, true),
            frame(0x80, 70_000, true),
            frame(0x88, 2, false),
        ]
        .concat();
        let expected = [
            message(1, 5),
            message(2, 300),
            message(9, 0),
            message(1, 70_030),
            message(8, 2),
        ];
        for cut in [1, 2, 3, 7, 1_000, bytes.len()] {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                frames.follow(piece, |message| seen.push(message));
            }
            assert_eq!(seen, expected, "cut at {cut}");
            assert!(frames.closed && frames.left == 0 && frames.have == 0);
        }
    }

    #[test]
    fn a_close_frame_goes_between_frames_only() {
        let mut end = Watched::client(tokio::io::sink(), Watch::default());
        let expected = [&[0x88, 6, 3, 0xe9], "gone".as_bytes()].concat();
        assert_eq!(end.close_frame(1001, "gone"), Some(expected));
        let bytes = frame(0x01, 10, false);
        end.frames.follow(&bytes[..5], |_| {});
        assert_eq!(end.close_frame(1001, ""), None);
        end.frames.follow(&bytes[5..], |_| {});
        assert!(end.close_frame(1001, "").is_some(), "within a message");
        end.frames.follow(&frame(0x88, 0, false), |_| {});
        assert_eq!(end.close_frame(1001, ""), None, "one is enough");
        let app = Watched::app(tokio::io::sink(), Watch::default());
        let masked = app.close_frame(1008, "").unwrap();
        assert_eq!(masked, [0x88, 0x82, 0, 0, 0, 0, 3, 0xf0]);
    }

    #[test]
    fn only_messages_are_data() {
        let watch = Watch::default();
        watch.passed("to-app", message(9, 0));
        watch.passed("to-app", message(2, 7));
        assert_eq!(watch.data.load(Ordering::Relaxed), 1);
    }
}
