//! A connection to a lent service.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use patchbay_common::tunnel::mux::MuxStream;
use patchbay_common::tunnel::{Kind, TunnelId};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::timeout;

use super::bridge;
use super::registry::Registry;
use super::session::Session;

/// A connection to a lent service, read and written like a socket.
#[derive(Debug)]
pub enum TunnelStream {
    /// A stream of the agent's multiplexed connection.
    Mux(MuxStream),
    /// One end of a pipe; at the other, requests go into the long poll's queue.
    Poll(DuplexStream),
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenFailure {
    /// Nobody ever lent it.
    #[error("no agent has lent this tunnel")]
    Unknown,
    /// Nobody lends it at the moment.
    #[error("the tunnel's agent is not connected")]
    NoAgent,
    /// Its agents have as much to do as they may.
    #[error("the tunnel's agent is busy")]
    Full,
    /// The service was not reached in time.
    #[error("the service did not take the connection in time")]
    TimedOut,
    /// The service refused.
    #[error("the agent cannot reach its service: {0}")]
    Unreachable(String),
    /// A connection cannot be carried by long polling.
    #[error("the agent speaks only long polling, which carries no connections")]
    NoConnections,
}

impl Registry {
    /// Connects to the service behind a tunnel: by its agents that are connected here, and where
    /// none of them can, by other gateways that know of some. `patience` is for each of them.
    ///
    /// # Errors
    /// Why the last of them could not.
    pub async fn open(
        &self,
        id: &TunnelId,
        patience: Duration,
    ) -> Result<TunnelStream, OpenFailure> {
        let mut failure = match self.open_here(id, patience).await {
            Ok(stream) => return Ok(stream),
            Err(failure) => failure,
        };
        let elsewhere = self.tunnel(id).map(|lent| lent.elsewhere.load_full());
        for remote in elsewhere.unwrap_or_default().iter() {
            let Some(relay) = &remote.relay else { continue };
            match timeout(patience, self.elsewhere.relays.open(relay, id)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(cause)) => failure = cause,
                Err(_) => failure = OpenFailure::TimedOut,
            }
        }
        Err(failure)
    }

    /// Connects by an agent that is connected here, beginning with whose turn it is.
    ///
    /// # Errors
    /// Why the last of them could not.
    pub(super) async fn open_here(
        &self,
        id: &TunnelId,
        patience: Duration,
    ) -> Result<TunnelStream, OpenFailure> {
        let lent = self.tunnel(id).ok_or(OpenFailure::Unknown)?;
        let mut failure = OpenFailure::NoAgent;
        for session in lent.in_turn() {
            if !session.is_reachable() {
                continue;
            }
            match self.open_by(&session, id, lent.kind(), patience).await {
                Ok(stream) => return Ok(stream),
                Err(cause) => failure = cause,
            }
        }
        Err(failure)
    }

    async fn open_by(
        &self,
        session: &Arc<Session>,
        id: &TunnelId,
        kind: Kind,
        patience: Duration,
    ) -> Result<TunnelStream, OpenFailure> {
        let Some(opener) = session.opener() else {
            if !session.may_poll() {
                return Err(OpenFailure::NoAgent);
            }
            if kind == Kind::Tcp {
                return Err(OpenFailure::NoConnections);
            }
            if !session.queue.has_room() {
                return Err(OpenFailure::Full);
            }
            let stream = bridge::connect(session, id, self.settings.max_body);
            return Ok(TunnelStream::Poll(stream));
        };
        match timeout(patience, opener.open(id)).await {
            Ok(Ok(stream)) => Ok(TunnelStream::Mux(stream)),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(OpenFailure::TimedOut),
        }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Mux(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Poll(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Mux(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Poll(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Mux(stream) => Pin::new(stream).poll_flush(cx),
            Self::Poll(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Mux(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Poll(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
