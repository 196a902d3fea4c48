//! TCP circuits: a port's connections carried to the kernel as they are.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::{Linger, Meter, splice, websocket};
use crate::context::Spliced;
use crate::error::Refusal;
use crate::table::LiveCircuit;
use crate::upstream::{PeerTemplate, Picked, Prober, UpstreamSet};

/// A client that still uploads after the app has stopped sending is heard for as long as it speaks.
const LINGER: Linger = Linger(Duration::from_secs(60));

/// Dials one of the upstreams, trying each at most once.
///
/// # Errors
/// [`Refusal::NoUpstream`] if none is in service, or why the last one could not be dialled.
pub async fn dial(
    upstreams: &UpstreamSet,
    peers: &PeerTemplate,
    prober: &Prober,
) -> Result<(Picked, TcpStream), Refusal> {
    let mut tried = Vec::new();
    let mut refusal = Refusal::NoUpstream;
    while let Some(picked) = upstreams.pick(&tried) {
        match websocket::dial(&picked.upstream, peers.connect_timeout()).await {
            Ok(stream) => {
                picked.upstream.health.succeeded();
                return Ok((picked, stream));
            }
            Err(cause) => {
                prober.report_fault(&picked.upstream);
                tried.push(picked.upstream);
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
