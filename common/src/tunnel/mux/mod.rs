//! One connection, many streams: HTTP/2 (RFC 9113) over a connection the agent has dialled, with
//! the gateway as its client. A stream is opened by a request that names a tunnel and answered
//! with 200 once the service has been reached; from then on its DATA frames are the bytes of a
//! connection, with a window of its own, so that a slow reader holds up nobody else.
//!
//! The connection's own window is as large as it can be: it would be what all streams share. What
//! may wait unread is bounded by the window of a stream times the number of streams.

mod agent;
mod gateway;
mod keep_alive;
mod stream;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use agent::{AgentEnd, Call};
pub use gateway::{GatewayEnd, OpenError, Opener};
pub use stream::MuxStream;

/// Size of a window, and how a dead connection is found.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of one stream that may be on their way unread.
    pub window: u32,
    /// Most streams at once.
    pub streams: u32,
    /// Between signs of life asked for.
    pub ping_every: Duration,
    /// Longest wait for a sign of life.
    pub ping_patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: 256 << 10,
            streams: 4_096,
            ping_every: Duration::from_secs(5),
            ping_patience: Duration::from_secs(5),
        }
    }
}

/// The largest window there is (RFC 9113 §6.9.1).
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Payload of a frame we take. Larger frames cost less work a byte, smaller ones let streams take
/// turns sooner.
const FRAME: u32 = 32 << 10;
/// Bytes of one stream kept for sending.
const SEND_BUFFER: usize = 64 << 10;
/// Streams remembered that were reset a moment ago, so that what still arrives for them is passed
/// over. A visitor that goes away resets its stream; many may do so at once.
const RESET_STREAMS: usize = 1_024;
/// Header that says why a stream was refused.
const REASON: &str = "patchbay-reason";
