//! HTTP/2 frame by frame (RFC 9113), for what no library would ever send.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest until a frame arrives.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client's connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (§6).
pub mod kind {
    #![allow(missing_docs)]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    #![allow(missing_docs)]
    pub const NONE: u8 = 0;
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
}

/// Error codes (§7).
pub mod code {
    #![allow(missing_docs)]
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it holds.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a reset or a good-bye.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        let bytes = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header as a literal that is not indexed (RFC 7541 §6.2.2), without Huffman's code.
pub fn header(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for part in [name.as_bytes(), value] {
        bytes.extend(integer(part.len()));
        bytes.extend_from_slice(part);
    }
    bytes
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn integer(number: usize) -> Vec<u8> {
    const MOST: usize = 127;
    if number < MOST {
        return vec![number as u8];
    }
    let mut bytes = vec![MOST as u8];
    let mut rest = number - MOST;
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

/// A block of these headers.
pub fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    headers
        .iter()
        .flat_map(|(name, value)| header(name, value.as_bytes()))
        .collect()
}

/// The headers every request has.
pub fn request(method: &str, path: &str) -> Vec<u8> {
    block(&[
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "h"),
    ])
}

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// Connects, without a word.
    ///
    /// # Errors
    /// If nobody listens.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Connects and exchanges prefaces and settings.
    ///
    /// # Errors
    /// If the server does not begin as it has to (§3.4).
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let mut wire = Self::connect(address).await?;
        let settings = frame(kind::SETTINGS, flag::NONE, 0, &[]);
        wire.write(&[PREFACE, &settings].concat()).await?;
        let first = wire.read().await?.context("the server ends")?;
        ensure!(
            first.kind == kind::SETTINGS && first.flags == 0,
            "{first:?}"
        );
        wire.write(&frame(kind::SETTINGS, flag::ACK, 0, &[]))
            .await?;
        Ok(wire)
    }

    /// Writes bytes. A server that has hung up already is no failure.
    ///
    /// # Errors
    /// If the server stops reading without hanging up.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await;
        // Broken connections show when reading.
        let _ = written.context("nothing is read")?;
        Ok(())
    }

    /// The next frame; `None` when the connection is over.
    ///
    /// # Errors
    /// If nothing comes.
    pub async fn read(&mut self) -> Result<Option<Frame>> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.stream.read_exact(&mut payload).await?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            std::io::Result::Ok(Frame {
                kind: head[3],
                flags: head[4],
                stream: stream & (u32::MAX >> 1),
                payload,
            })
        };
        let read = tokio::time::timeout(PATIENCE, read).await;
        Ok(read.context("nothing comes")?.ok())
    }

    /// Reads until a frame is one of those wanted; answers with it.
    ///
    /// # Errors
    /// If the connection ends or nothing comes.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Result<Frame> {
        let mut passed = Vec::new();
        loop {
            let Some(frame) = self.read().await.with_context(|| format!("{passed:?}"))? else {
                bail!("the connection ends after {passed:?}");
            };
            if wanted(&frame) {
                return Ok(frame);
            }
            passed.push(frame);
        }
    }
}
