//! What a request is sent to. Engines and the conduct of requests see this; only `stage` and the
//! logs look at which kind it is.

use std::sync::Arc;

use patchbay_common::circuit::Protocol;
use tokio_util::sync::CancellationToken;

use crate::gateway::plan::LiveService;
use crate::table::LiveCircuit;
use crate::tunnel::Lent;
use crate::upstream::UpstreamSet;

/// What a request was located to.
#[derive(Clone, Debug)]
pub enum Target {
    /// A circuit to a session's app.
    Circuit(Arc<LiveCircuit>),
    /// A service of the gateway.
    Service(Arc<LiveService>),
    /// A service an agent lends.
    Tunnel(Arc<Lent>),
}

impl Target {
    /// Where its requests may go.
    pub fn upstreams(&self) -> &UpstreamSet {
        match self {
            Self::Circuit(circuit) => &circuit.upstreams,
            Self::Service(service) => &service.upstreams,
            Self::Tunnel(lent) => &lent.upstreams,
        }
    }

    /// What its upstreams speak.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Circuit(circuit) => circuit.circuit.protocol,
            Self::Service(service) => service.protocol,
            Self::Tunnel(_) => Protocol::Http,
        }
    }

    /// Cancelled when it goes away, and what it carries with it.
    pub fn closed(&self) -> &CancellationToken {
        match self {
            Self::Circuit(circuit) => &circuit.closed,
            Self::Service(service) => &service.closed,
            Self::Tunnel(lent) => &lent.closed,
        }
    }

    /// The circuit, if it is one.
    pub fn circuit(&self) -> Option<&Arc<LiveCircuit>> {
        match self {
            Self::Circuit(circuit) => Some(circuit),
            Self::Service(_) | Self::Tunnel(_) => None,
        }
    }

    /// The service, if it is one.
    pub fn service(&self) -> Option<&Arc<LiveService>> {
        match self {
            Self::Circuit(_) | Self::Tunnel(_) => None,
            Self::Service(service) => Some(service),
        }
    }
}
