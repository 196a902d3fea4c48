//! Ports whose connections are carried to a tunnel.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use patchbay_common::lifecycle::Drain;
use patchbay_common::request_id::RequestId;
use patchbay_common::tunnel::TunnelId;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Carry;
use crate::access_log::{AccessLog, Line};
use crate::metrics::Metrics;
use crate::stream::{Meter, tcp};
use crate::upstream::{PeerTemplate, Upstream, UpstreamSet};

/// Carries connections to one tunnel.
pub struct TunnelCarrier {
    upstream: Option<Arc<Upstream>>,
    peers: PeerTemplate,
    metrics: Arc<Metrics>,
    access_log: Arc<AccessLog>,
    drain: Drain,
}

impl TunnelCarrier {
    /// To this tunnel.
    pub fn new(
        id: &TunnelId,
        peers: PeerTemplate,
        metrics: Arc<Metrics>,
        access_log: Arc<AccessLog>,
        drain: Drain,
    ) -> Self {
        Self {
            upstream: UpstreamSet::of_tunnel(id).all().next().cloned(),
            peers,
            metrics,
            access_log,
            drain,
        }
    }
}

#[async_trait]
impl Carry for TunnelCarrier {
    async fn carry(&self, stream: TcpStream, _stopping: watch::Receiver<bool>) {
        let Some(upstream) = &self.upstream else {
            return;
        };
        let _in_flight = self.drain.enter();
        let (id, started) = (RequestId::generate(), Instant::now());
        let mut line = Line {
            kind: "tcp",
            request_id: id.as_str(),
            client: stream.peer_addr().ok(),
            route: Some(&upstream.label),
            ..Line::default()
        };
        let error;
        match self.peers.dial(upstream).await {
            Ok(lent) => {
                let (meter, open) = (Arc::new(Meter::default()), self.metrics.tcp_opened());
                let never = CancellationToken::new();
                let spliced = tcp::carry(stream, lent, &never, &meter).await;
                open.carried(spliced.sent, spliced.received);
                line.bytes_in = spliced.sent;
                line.bytes_out = spliced.received;
                line.end = Some(spliced.end.as_str());
            }
            Err(refusal) => {
                self.metrics.tcp_refused(&refusal);
                error = refusal.to_string();
                line.error = Some(&error);
            }
        }
        line.duration = started.elapsed();
        self.access_log.write(&line);
    }
}
