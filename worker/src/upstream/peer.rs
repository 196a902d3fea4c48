//! How Pingora is told to dial an upstream.

use std::net::SocketAddr;
use std::time::Duration;

use pingora_core::upstreams::peer::HttpPeer;

use crate::config::Timeouts;

/// Time-outs of all upstream connections.
#[derive(Clone, Copy, Debug)]
pub struct PeerTemplate {
    connect: Duration,
    idle: Duration,
}

impl PeerTemplate {
    /// As configured.
    pub fn new(timeouts: &Timeouts) -> Self {
        Self {
            connect: timeouts.connect.0,
            idle: timeouts.upstream_keepalive.0,
        }
    }

    /// A plaintext HTTP/1.1 peer. Reads and writes are not timed out: a live stream may be silent
    /// for as long as it likes.
    pub fn http1(&self, address: SocketAddr) -> HttpPeer {
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.options.connection_timeout = Some(self.connect);
        peer.options.total_connection_timeout = Some(self.connect);
        peer.options.idle_timeout = Some(self.idle);
        peer
    }

    /// Patience when dialling.
    pub fn connect_timeout(&self) -> Duration {
        self.connect
    }
}
