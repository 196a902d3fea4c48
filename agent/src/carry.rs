//! Streams of the multiplexed connection, spliced with local services.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use patchbay_common::lifecycle::Drain;
use patchbay_common::tunnel::mux::Call;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::gauge::Gauge;
use crate::knock::{Door, Knock, Knocking, TAKEN_WITHIN};
use crate::tunnel::{Scheme, Target, Tunnel};

/// Patience with a local service.
const CONNECT: Duration = Duration::from_secs(5);
/// Buffer of each direction.
const BUFFER: usize = 16 << 10;

/// Connects streams to the services that are lent, and to nothing else.
pub struct Carrier {
    tunnels: Vec<(Tunnel, Door)>,
    tls: TlsConnector,
    gauge: Arc<Gauge>,
    drain: Drain,
}

impl Carrier {
    /// For these tunnels.
    pub fn new(
        tunnels: Vec<Tunnel>,
        tls: Arc<ClientConfig>,
        gauge: Arc<Gauge>,
        drain: Drain,
    ) -> Arc<Self> {
        let tunnels = tunnels.into_iter();
        Arc::new(Self {
            tunnels: tunnels.map(|one| (one, Door::default())).collect(),
            tls: TlsConnector::from(tls),
            gauge,
            drain,
        })
    }

    /// Takes a stream and carries it to its end, on a task of its own.
    pub fn take(self: &Arc<Self>, call: Call) {
        let carrier = Arc::clone(self);
        tokio::spawn(async move { carrier.carry(call).await });
    }

    async fn carry(&self, call: Call) {
        let _in_flight = self.drain.enter();
        let found = self
            .tunnels
            .iter()
            .find(|(one, _)| one.id.as_str() == call.tunnel());
        let Some((tunnel, door)) = found else {
            return call.unknown();
        };
        let target = &tunnel.target;
        let dialling = async {
            let knock = door.knock().await;
            Ok::<_, io::Error>((self.dial(target).await?, knock))
        };
        match timeout(CONNECT, dialling).await {
            Ok(Ok((service, knock))) => self.splice(call, service, knock).await,
            Ok(Err(cause)) => {
                self.gauge.unreachable.fetch_add(1, Ordering::Relaxed);
                log::warn!(
                    "tunnel {}: {} cannot be reached: {cause}",
                    tunnel.id,
                    target.authority
                );
                call.unreachable(&cause.kind().to_string());
            }
            Err(_) => {
                self.gauge.unreachable.fetch_add(1, Ordering::Relaxed);
                log::warn!(
                    "tunnel {}: {} does not take connections",
                    tunnel.id,
                    target.authority
                );
                call.timed_out();
            }
        }
    }

    async fn dial(&self, target: &Target) -> io::Result<Box<dyn Service>> {
        let stream = TcpStream::connect(&target.authority).await?;
        // Without it small pieces wait for acknowledgements.
        stream.set_nodelay(true)?;
        if target.scheme != Scheme::Https {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(target.host().to_owned());
        let name = name.map_err(|cause| io::Error::new(io::ErrorKind::InvalidInput, cause))?;
        Ok(Box::new(self.tls.connect(name, stream).await?))
    }

    async fn splice(&self, call: Call, service: Box<dyn Service>, knock: Knock) {
        let Ok(mut stream) = call.accept() else {
            return;
        };
        let mut service = Knocking::new(service, knock.clone());
        let gauge = &self.gauge;
        gauge.streams.fetch_add(1, Ordering::Relaxed);
        gauge.open_streams.fetch_add(1, Ordering::Relaxed);
        let copying = copy_bidirectional_with_sizes(&mut stream, &mut service, BUFFER, BUFFER);
        tokio::pin!(copying);
        let copied = match timeout(TAKEN_WITHIN, &mut copying).await {
            Ok(copied) => copied,
            Err(_) => {
                knock.heard();
                copying.await
            }
        };
        gauge.open_streams.fetch_sub(1, Ordering::Relaxed);
        // Either end may break off; the other one learns it by the drop of both.
        if let Ok((to_service, from_service)) = copied {
            gauge.bytes_in.fetch_add(to_service, Ordering::Relaxed);
            gauge.bytes_out.fetch_add(from_service, Ordering::Relaxed);
        }
    }
}

/// A connection to a local service.
trait Service: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Service for T {}
