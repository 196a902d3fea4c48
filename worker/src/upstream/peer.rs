//! How Pingora is told to dial an upstream.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::upstreams::peer::HttpPeer;

use super::Upstream;
use super::dial::{NOWHERE, TunnelConnector, dial};
use crate::config::Timeouts;
use crate::error::Refusal;
use crate::tunnel::Registry;

/// Time-outs of all upstream connections.
#[derive(Clone, Debug)]
pub struct PeerTemplate {
    connect: Duration,
    idle: Duration,
    tunnels: Arc<Registry>,
}

impl PeerTemplate {
    /// As configured.
    pub fn new(timeouts: &Timeouts, tunnels: Arc<Registry>) -> Self {
        Self {
            connect: timeouts.connect.0,
            idle: timeouts.upstream_keepalive.0,
            tunnels,
        }
    }

    /// How Pingora reaches an upstream.
    ///
    /// # Errors
    /// If its name does not resolve.
    pub async fn peer(&self, upstream: &Upstream) -> io::Result<HttpPeer> {
        let Some(id) = upstream.tunnel() else {
            return Ok(self.http1(upstream.address().await?));
        };
        let mut peer = self.http1(NOWHERE);
        peer.options.custom_l4 = Some(Arc::new(TunnelConnector {
            tunnels: Arc::clone(&self.tunnels),
            id: id.clone(),
            patience: self.connect,
        }));
        // Pingora tells pooled connections apart by their descriptors, of which these have none.
        peer.options.idle_timeout = Some(Duration::ZERO);
        Ok(peer)
    }

    /// A connection to an upstream.
    ///
    /// # Errors
    /// As [`dial`].
    pub async fn dial(&self, upstream: &Upstream) -> Result<L4Stream, Refusal> {
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
}
