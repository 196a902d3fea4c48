//! How Pingora is told to dial an upstream.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use patchbay_common::circuit::Protocol;
use pingora_core::upstreams::peer::HttpPeer;

use super::Upstream;
use super::dial::{Link, NOWHERE, TunnelConnector, dial};
use crate::config::{Http2, Timeouts};
use crate::error::Refusal;
use crate::tunnel::Registry;

/// Between pings on connections of HTTP/2.
const PING: Duration = Duration::from_secs(30);

/// Time-outs of all upstream connections.
#[derive(Clone, Debug)]
pub struct PeerTemplate {
    connect: Duration,
    idle: Duration,
    streams: usize,
    tunnels: Arc<Registry>,
    /// Connections to tunnels so far.
    lent: Arc<AtomicU64>,
}

impl PeerTemplate {
    /// As configured.
    pub fn new(timeouts: &Timeouts, http2: &Http2, tunnels: Arc<Registry>) -> Self {
        Self {
            connect: timeouts.connect.0,
            idle: timeouts.upstream_keepalive.0,
            streams: usize::try_from(http2.max_upstream_streams.get()).unwrap_or(usize::MAX),
            tunnels,
            lent: Arc::default(),
        }
    }

    /// The same, keeping idle connections this long.
    #[must_use]
    pub fn keeping(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// The same, waiting this long for a connection.
    #[must_use]
    pub fn within(mut self, connect: Duration) -> Self {
        self.connect = connect;
        self
    }

    /// How Pingora reaches an upstream that speaks this protocol.
    ///
    /// # Errors
    /// If its name does not resolve.
    pub async fn peer(&self, upstream: &Upstream, protocol: Protocol) -> io::Result<HttpPeer> {
        let Some(id) = upstream.tunnel() else {
            return Ok(self.speaking(protocol, upstream.address().await?));
        };
        let mut peer = self.speaking(protocol, NOWHERE);
        peer.options.custom_l4 = Some(Arc::new(TunnelConnector {
            tunnels: Arc::clone(&self.tunnels),
            id: id.clone(),
            patience: self.connect,
        }));
        // Never to be used again: Pingora tells pooled connections apart by their descriptors, of
        // which these have none, and all tunnels have one address. Even an idle time of nothing
        // leaves a moment in which another request would find the connection, so that each is of
        // a kind of its own.
        peer.options.idle_timeout = Some(Duration::ZERO);
        peer.group_key = self.lent.fetch_add(1, Ordering::Relaxed);
        Ok(peer)
    }

    /// A connection to an upstream.
    ///
    /// # Errors
    /// As [`dial`].
    pub async fn dial(&self, upstream: &Upstream) -> Result<Link, Refusal> {
        dial(upstream, &self.tunnels, self.connect).await
    }

    /// A plaintext HTTP/1.1 peer. Reads and writes are not timed out: a live stream may be silent
    /// for as long as it likes.
    fn http1(&self, address: SocketAddr) -> HttpPeer {
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.options.connection_timeout = Some(self.connect);
        peer.options.total_connection_timeout = Some(self.connect);
        peer.options.idle_timeout = Some(self.idle);
        peer
    }

    /// A peer that speaks HTTP/2 in plaintext, which it has to know (RFC 9113 §3.3). Its answer to
    /// a ping is awaited, so that requests on the connection of a dead host end.
    pub fn http2(&self, address: SocketAddr) -> HttpPeer {
        let mut peer = self.http1(address);
        peer.options.set_http_version(2, 2);
        peer.options.max_h2_streams = self.streams;
        peer.options.h2_ping_interval = Some(PING);
        peer
    }

    /// The peer for a circuit of this protocol.
    pub fn speaking(&self, protocol: Protocol, address: SocketAddr) -> HttpPeer {
        match protocol.carried() {
            Protocol::Grpc | Protocol::H2 => self.http2(address),
            _ => self.http1(address),
        }
    }
}
