//! How a connection to an upstream is made, whether it has an address or is lent by an agent.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use patchbay_common::tunnel::TunnelId;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr as L4Address;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::{Error, ErrorType, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Upstream;
use crate::error::Refusal;
use crate::tunnel::{OpenFailure, Registry, TunnelStream};

/// Where Pingora is told a tunnel is; its own connector is never asked.
pub(super) const NOWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Pingora's names for the failures of a tunnel that its own do not tell apart.
const NO_AGENT: &str = "tunnel-no-agent";
const BUSY: &str = "tunnel-busy";

/// A connection to an upstream.
#[derive(Debug)]
pub enum Link {
    /// A plain socket.
    Socket(TcpStream),
    /// Lent by an agent.
    Lent(Box<L4Stream>),
}

impl Link {
    /// As Pingora takes it.
    pub fn into_l4(self) -> L4Stream {
        match self {
            Self::Socket(stream) => stream.into(),
            Self::Lent(stream) => *stream,
        }
    }

    /// Sends this first of all.
    ///
    /// # Errors
    /// If the upstream breaks off.
    pub async fn begin_with(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Socket(stream) => stream.write_all(bytes).await,
            Self::Lent(stream) => stream.write_all(bytes).await,
        }
    }
}

/// Connects to an upstream.
///
/// # Errors
/// [`Refusal::UpstreamConnect`], [`Refusal::UpstreamConnectTimeout`], and of a tunnel
/// [`Refusal::NoAgent`] or [`Refusal::TunnelBusy`].
pub async fn dial(
    upstream: &Upstream,
    tunnels: &Registry,
    patience: Duration,
) -> Result<Link, Refusal> {
    if let Some(id) = upstream.tunnel() {
        return match tunnels.open(id, patience).await {
            Ok(stream) => Ok(Link::Lent(Box::new(lend(stream)))),
            Err(failure) => Err(refusal(&failure)),
        };
    }
    let attempt = async { TcpStream::connect(upstream.address().await?).await };
    let stream = match timeout(patience, attempt).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) => return Err(Refusal::UpstreamConnect),
        Err(_) => return Err(Refusal::UpstreamConnectTimeout),
    };
    // Without it small frames wait for acknowledgements; a socket that cannot be told still works.
    let _ = stream.set_nodelay(true);
    Ok(Link::Socket(stream))
}

impl VirtualSocket for TunnelStream {
    /// What there is to set concerns the agent's connection, which others use too.
    fn set_socket_option(&self, _: VirtualSockOpt) -> std::io::Result<()> {
        Ok(())
    }
}

fn lend(stream: TunnelStream) -> L4Stream {
    L4Stream::from(VirtualSocketStream::new(Box::new(stream)))
}

/// What a tunnel's failure is to a client.
fn refusal(failure: &OpenFailure) -> Refusal {
    match failure {
        OpenFailure::Unknown | OpenFailure::NoAgent => Refusal::NoAgent,
        OpenFailure::Full | OpenFailure::NoConnections => Refusal::TunnelBusy,
        OpenFailure::TimedOut => Refusal::UpstreamConnectTimeout,
        OpenFailure::Unreachable(_) => Refusal::UpstreamConnect,
    }
}

/// What Pingora's error was, if it is one of a tunnel's own.
pub fn tunnel_refusal(error: &ErrorType) -> Option<Refusal> {
    match error {
        ErrorType::Custom(NO_AGENT) => Some(Refusal::NoAgent),
        ErrorType::Custom(BUSY) => Some(Refusal::TunnelBusy),
        _ => None,
    }
}

/// Connects Pingora to a tunnel.
pub(super) struct TunnelConnector {
    pub(super) tunnels: Arc<Registry>,
    pub(super) id: TunnelId,
    pub(super) patience: Duration,
}

impl fmt::Debug for TunnelConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tunnel {}", self.id)
    }
}

#[async_trait]
impl L4Connect for TunnelConnector {
    async fn connect(&self, _: &L4Address) -> Result<L4Stream> {
        let failure = match self.tunnels.open(&self.id, self.patience).await {
            Ok(stream) => return Ok(lend(stream)),
            Err(failure) => failure,
        };
        log::debug!("tunnel {}: {failure}", self.id);
        let error = match refusal(&failure) {
            Refusal::NoAgent => ErrorType::Custom(NO_AGENT),
            Refusal::TunnelBusy => ErrorType::Custom(BUSY),
            Refusal::UpstreamConnectTimeout => ErrorType::ConnectTimedout,
            _ => ErrorType::ConnectRefused,
        };
        Error::e_explain(error, failure.to_string())
    }
}
