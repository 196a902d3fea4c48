//! What a request is sent to. Engines and the conduct of requests see this; only `stage` and the
//! logs look at which kind it is.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::table::LiveCircuit;
use crate::upstream::UpstreamSet;

/// What a request was located to.
#[derive(Clone, Debug)]
pub enum Target {
    /// A circuit to a session's app.
    Circuit(Arc<LiveCircuit>),
}

impl Target {
    /// Where its requests may go.
    pub fn upstreams(&self) -> &UpstreamSet {
        match self {
            Self::Circuit(circuit) => &circuit.upstreams,
        }
    }

    /// Cancelled when it goes away, and what it carries with it.
    pub fn closed(&self) -> &CancellationToken {
        match self {
            Self::Circuit(circuit) => &circuit.closed,
        }
    }

    /// The circuit, if it is one.
    pub fn circuit(&self) -> Option<&Arc<LiveCircuit>> {
        match self {
            Self::Circuit(circuit) => Some(circuit),
        }
    }
}
