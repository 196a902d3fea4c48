//! Who carries accepted connections: the HTTP engine, or the TCP splice.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use patchbay_common::lifecycle::Drain;
use patchbay_common::request_id::RequestId;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{GetSocketDigest as _, IO, SocketDigest};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Guarded, LiveTls};
use crate::access_log::{AccessLog, Line};
use crate::error::{Problem, Refusal};
use crate::metrics::Metrics;
use crate::stream::{Meter, mark_while, tcp};
use crate::sync::Activity;
use crate::table::{LiveCircuit, Table};
use crate::upstream::{Ask, PeerTemplate, Prober};

/// Longest a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Takes a connection from its first byte to its last.
#[async_trait]
pub trait Carry: Send + Sync + 'static {
    /// Carries it. `stopping` turns true when no new work should be begun.
    async fn carry(&self, stream: TcpStream, stopping: watch::Receiver<bool>);

    /// What a client is told whose connection is not carried; `None` where it could not read it.
    fn farewell(&self, _: &Refusal) -> Option<String> {
        None
    }
}

/// Speaks HTTP on a connection whose transport stands.
#[async_trait]
pub trait Speak: Send + Sync + 'static {
    /// Carries its requests until it ends.
    async fn speak<S: IO + 'static>(&self, stream: S, stopping: watch::Receiver<bool>);
}

/// A Pingora application, behind a guard. The head of a request has to be complete in time.
pub struct Guarding<A> {
    /// The application.
    pub app: Arc<A>,
    /// For a head.
    pub head_patience: Duration,
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> Speak for Guarding<A> {
    async fn speak<S: IO + 'static>(&self, stream: S, stopping: watch::Receiver<bool>) {
        let stream = Box::new(Guarded::new(stream, self.head_patience));
        self.app.process_new(stream, &stopping).await;
    }
}

/// HTTP, in plaintext or TLS.
pub struct HttpCarrier<A> {
    app: A,
    tls: Option<LiveTls>,
}

impl<A> HttpCarrier<A> {
    /// Hands connections to `app`, after a handshake if `tls` is given.
    pub fn new(app: A, tls: Option<LiveTls>) -> Self {
        Self { app, tls }
    }
}

#[async_trait]
impl<A: Speak> Carry for HttpCarrier<A> {
    async fn carry(&self, stream: TcpStream, stopping: watch::Receiver<bool>) {
        let Some(stream) = prepare(stream) else {
            return;
        };
        match &self.tls {
            None => self.app.speak(stream, stopping).await,
            Some(tls) => match timeout(HANDSHAKE, tls.load_full().tls_handshake(stream)).await {
                Ok(Ok(stream)) => self.app.speak(stream, stopping).await,
                Ok(Err(error)) => log::debug!("a TLS handshake failed: {error}"),
                Err(_) => {}
            },
        }
    }

    fn farewell(&self, refusal: &Refusal) -> Option<String> {
        // A handshake for a client that is turned away would cost more than the client.
        self.tls
            .is_none()
            .then(|| Problem::from(refusal).farewell())
    }
}

/// The socket as Pingora wants it, both addresses known, so that nobody asks the system again.
fn prepare(stream: TcpStream) -> Option<L4Stream> {
    let (peer, local) = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // A fresh digest has no addresses yet.
    let _ = digest.peer_addr.set(Some(peer.into()));
    let _ = digest.local_addr.set(Some(local.into()));
    let mut stream = L4Stream::from(stream);
    // Small answers must not wait for acknowledgements; a socket that cannot be told still works.
    let _ = stream.set_nodelay();
    stream.set_socket_digest(digest);
    Some(stream)
}

/// TCP circuits.
pub struct TcpCarrier {
    /// Where circuits are found.
    pub table: Arc<Table>,
    /// Advertised minus bound port.
    pub port_offset: i32,
    /// How upstreams are dialled.
    pub peers: PeerTemplate,
    /// Hears of upstream faults.
    pub prober: Arc<Prober>,
    /// Hears of use.
    pub activity: Arc<Activity>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Gets a line for each connection.
    pub access_log: Arc<AccessLog>,
    /// Counts what is in flight.
    pub drain: Drain,
}

#[async_trait]
impl Carry for TcpCarrier {
    async fn carry(&self, stream: TcpStream, _stopping: watch::Receiver<bool>) {
        let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
            return;
        };
        let _in_flight = self.drain.enter();
        let (id, started) = (RequestId::generate(), Instant::now());
        let mut line = Line {
            kind: "tcp",
            request_id: id.as_str(),
            client: Some(peer),
            ..Line::default()
        };
        let (circuit, outcome) = self.connect(local, peer).await;
        line.circuit = circuit.as_deref().map(|live| live.id_text.as_str());
        line.app = circuit
            .as_deref()
            .and_then(|live| live.circuit.app.as_deref());
        line.origin_request_id = circuit
            .as_deref()
            .and_then(|live| live.circuit.origin_request_id.as_deref());
        let error;
        let picked;
        match (&circuit, outcome) {
            (Some(circuit), Ok((chosen, upstream))) => {
                picked = chosen;
                let meter = Arc::new(Meter::default());
                let open = self.metrics.tcp_opened();
                let carrying = tcp::carry(stream, upstream, circuit, &meter);
                let spliced = mark_while(&self.activity, circuit, picked.session, carrying).await;
                open.carried(spliced.sent, spliced.received);
                line.route = Some(&picked.upstream.label);
                line.bytes_in = spliced.sent;
                line.bytes_out = spliced.received;
                line.end = Some(spliced.end.as_str());
            }
            (_, Err(refusal)) => {
                self.metrics.tcp_refused(&refusal);
                error = refusal.to_string();
                line.error = Some(&error);
            }
            (None, Ok(_)) => {}
        }
        line.duration = started.elapsed();
        self.access_log.write(&line);
    }
}

impl TcpCarrier {
    async fn connect(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> (
        Option<Arc<LiveCircuit>>,
        Result<(crate::upstream::Picked, TcpStream), Refusal>,
    ) {
        let bound = local.port();
        let port = u16::try_from(i32::from(bound) + self.port_offset).unwrap_or(bound);
        let Some(circuit) = self.table.at_port(port) else {
            return (None, Err(Refusal::UnknownPort(port)));
        };
        if !circuit.clients.admits(peer.ip()) {
            return (Some(circuit), Err(Refusal::ClientAddress));
        }
        let dialled = tcp::dial(
            &circuit.upstreams,
            Ask::default(),
            &self.peers,
            &self.prober,
        )
        .await;
        (Some(circuit), dialled)
    }
}
