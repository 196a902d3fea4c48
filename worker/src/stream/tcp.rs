//! TCP circuits: a port's connections carried to the kernel as they are.

use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::l4::stream::Stream as L4Stream;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Linger, Meter, splice};
use crate::context::Spliced;
use crate::error::Refusal;
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
) -> Result<(Picked, L4Stream), Refusal> {
    let mut tried = Vec::new();
    let mut refusal = Refusal::NoUpstream;
    while let Some(picked) = upstreams.pick(&tried) {
        match peers.dial(&picked.upstream).await {
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
    upstream: L4Stream,
    closed: &CancellationToken,
    meter: &Arc<Meter>,
) -> Spliced {
    let _ = client.set_nodelay(true);
    splice(client, upstream, meter, LINGER, closed).await
}
