//! TCP circuits: a port's connections carried to the kernel as they are.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::{Linger, Meter, splice, websocket};
use crate::context::Spliced;
use crate::error::Refusal;
use crate::table::LiveCircuit;
use crate::upstream::{PeerTemplate, Picked, Prober};

/// A client that still uploads after the app has stopped sending is heard for as long as it speaks.
const LINGER: Linger = Linger(Duration::from_secs(60));

/// Dials one of the circuit's upstreams, trying each at most once.
///
/// # Errors
/// [`Refusal::NoUpstream`] if none is in service, or why the last one could not be dialled.
pub async fn dial(
    circuit: &LiveCircuit,
    peers: &PeerTemplate,
    prober: &Prober,
) -> Result<(Picked, TcpStream), Refusal> {
    let mut tried = Vec::new();
    let mut refusal = Refusal::NoUpstream;
    while let Some(picked) = circuit.upstreams.pick(&tried) {
        match websocket::dial(&picked.upstream, peers.connect_timeout()).await {
            Ok(stream) => {
                picked.upstream.health.connected();
                return Ok((picked, stream));
            }
            Err(cause) => {
                prober.report(&picked.upstream, websocket::fault_of(&cause));
                tried.push(Arc::clone(&picked.upstream));
                refusal = cause;
            }
        }
    }
    Err(refusal)
}

/// Carries a connection until it ends.
pub async fn carry(
    client: TcpStream,
    upstream: TcpStream,
    circuit: &LiveCircuit,
    meter: &Arc<Meter>,
) -> Spliced {
    let _ = client.set_nodelay(true);
    splice(client, upstream, meter, LINGER, &circuit.closed).await
}
