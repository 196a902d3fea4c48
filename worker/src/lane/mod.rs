//! The fast lane: plain HTTP/1.1 requests carried from socket to socket, with nothing between but
//! what `conduct` says.
//!
//! `frontend` gives it connections. `request` tells which requests are plain; every other one, and
//! everything doubtful, is handed over untouched to the engine in `proxy`, and the connection comes
//! back for its next request. `exchange` carries one request, `flow` its bytes, `rewrite` the heads;
//! `pool` keeps idle upstream connections. It refuses to judge malformed input, and to do anything
//! to a request that `conduct` does not do for both engines.

mod answer;
mod buffer;
mod carry;
mod chunks;
mod connection;
mod exchange;
mod flow;
mod forward;
mod handover;
mod head;
mod memory;
mod pool;
mod request;
mod response;
mod rewrite;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use patchbay_common::circuit::Protocol;
use pingora_core::protocols::IO;
use tokio::sync::watch;

use crate::conduct::{Conduct, Entrance};
use crate::config::Config;
use crate::frontend::{Speak, Wire};
use crate::proxy::Engine;
use crate::target::Target;
use pool::Pools;

pub use request::Reason;

/// Carries plain requests; knows who carries the others.
pub struct Lane {
    conduct: Arc<Conduct>,
    other: Arc<Engine>,
    pools: Pools,
    patience: Patience,
    /// Apps and circuits it does not carry.
    off: Vec<String>,
}

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For a head to be whole.
    head: Duration,
    /// For the next request.
    keepalive: Duration,
}

impl Lane {
    /// A lane beside the engine `other`, which does as the same `conduct` says. At most `pooled`
    /// idle upstream connections are kept for each thread.
    pub fn new(conduct: Arc<Conduct>, other: Arc<Engine>, config: &Config, pooled: usize) -> Self {
        let timeouts = &config.timeouts;
        let idle = match (&conduct.entrance, &config.gateway) {
            (Entrance::Gateway(_), Some(gateway)) => gateway.pool_idle,
            _ => timeouts.upstream_keepalive,
        };
        Self {
            conduct,
            other,
            pools: Pools::new(pooled, idle.0),
            patience: Patience {
                head: timeouts.request_head.0,
                keepalive: timeouts.keepalive.0.max(Duration::from_secs(1)),
            },
            off: config.server.fast_lane_off.clone(),
        }
    }
}

impl Lane {
    /// Why requests to this target are not the lane's, if they are not.
    fn spares(&self, target: &Target) -> Option<Reason> {
        let lent = matches!(target, Target::Tunnel(_));
        if lent || target.upstreams().all().any(|one| one.tunnel().is_some()) {
            return Some(Reason::Tunnel);
        }
        let live = target.circuit()?;
        let circuit = &live.circuit;
        let is_off = |name: &String| {
            *name == live.id_text || circuit.app.as_deref().is_some_and(|app| app == name)
        };
        if matches!(circuit.protocol, Protocol::Grpc | Protocol::H2) {
            Some(Reason::Protocol)
        } else if self.off.iter().any(is_off) {
            Some(Reason::Off)
        } else {
            None
        }
    }
}

#[async_trait]
impl Speak for Arc<Lane> {
    async fn speak<S: IO + 'static>(
        &self,
        stream: S,
        wire: Option<Wire>,
        stopping: watch::Receiver<bool>,
    ) {
        self.serve(stream, wire, stopping).await;
    }
}
