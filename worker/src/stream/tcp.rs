//! TCP circuits: a port's connections carried to the kernel as they are.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

#[cfg(target_os = "linux")]
use super::splice_sockets;
use super::{Linger, Meter, splice, websocket};
use crate::context::Spliced;
use crate::error::Refusal;
use crate::upstream::{Ask, Link, Outcome, PeerTemplate, Picked, Prober, UpstreamSet};

/// A client that still uploads after the app has stopped sending is heard for as long as it speaks.
const LINGER: Linger = Linger(Duration::from_secs(60));

/// Dials one of the upstreams, trying each at most once.
///
/// # Errors
/// [`Refusal::NoUpstream`] if none is in service, what came of waiting in line, or why the last one could not be dialled.
pub async fn dial(
    upstreams: &UpstreamSet,
    asked: Ask<'_>,
    peers: &PeerTemplate,
    prober: &Prober,
) -> Result<(Picked, Link), Refusal> {
    let mut tried = Vec::new();
    loop {
        let ask = Ask {
            tried: &tried,
            ..asked
        };
        let picked = upstreams.acquire(&ask).await?;
        match peers.dial(&picked.upstream).await {
            Ok(stream) => {
                picked.upstream.health.connected();
                return Ok((picked, stream));
            }
            Err(cause) => {
                prober.report(&picked.upstream, websocket::fault_of(&cause));
                picked.upstream.ended(Outcome::Failed);
                tried.push(Arc::clone(&picked.upstream));
                if !upstreams.grants_retry(&tried) {
                    return Err(cause);
                }
            }
        }
    }
}

/// Carries a connection until it ends. Between two sockets the kernel moves the bytes.
pub async fn carry(
    client: TcpStream,
    upstream: Link,
    closed: &CancellationToken,
    meter: &Arc<Meter>,
) -> Spliced {
    let _ = client.set_nodelay(true);
    match upstream {
        #[cfg(target_os = "linux")]
        Link::Socket(upstream) => splice_sockets(client, upstream, meter, LINGER, closed).await,
        upstream => splice(client, upstream.into_l4(), meter, LINGER, closed).await,
    }
}
