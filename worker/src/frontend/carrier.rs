//! Who carries accepted connections: the HTTP engine, or the TCP splice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ipnet::IpNet;
use patchbay_common::lifecycle::Drain;
use patchbay_common::request_id::RequestId;
use patchbay_listen::prepare;
use patchbay_listen::proxy_protocol::{self, ProxyProtocolError};
use patchbay_listen::tls::{Live, Purpose};
use pingora_core::apps::ServerApp;
use pingora_core::protocols::{ALPN, IO, Ssl as _};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Guarded, Socket, Wire};
use crate::access_log::{AccessLog, Line};
use crate::config::Timeouts;
use crate::context::SpliceEnd;
use crate::error::{Problem, Refusal};
use crate::metrics::Metrics;
use crate::stream::{Meter, end_when_idle, mark_while, tcp};
use crate::sync::Activity;
use crate::table::{LiveCircuit, Table};
use crate::upstream::{Ask, Link, PeerTemplate, Prober};

/// Longest a TLS handshake may take, or the header of a balancer.
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
    /// Carries its requests until it ends. Where only the first bytes tell what is spoken, `wire`
    /// is `None`.
    async fn speak<S: IO + 'static>(
        &self,
        stream: S,
        wire: Option<Wire>,
        stopping: watch::Receiver<bool>,
    );
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
    async fn speak<S: IO + 'static>(
        &self,
        mut stream: S,
        wire: Option<Wire>,
        stopping: watch::Receiver<bool>,
    ) {
        let (wire, read) = match wire {
            Some(wire) => (wire, Vec::new()),
            None => match begins_as(&mut stream, self.head_patience).await {
                Some(begun) => begun,
                None => return,
            },
        };
        let guarded = Guarded::new(stream, wire, self.head_patience).again(read);
        self.app.process_new(Box::new(guarded), &stopping).await;
    }
}

/// HTTP, in plaintext or TLS.
pub struct HttpCarrier<A> {
    app: A,
    tls: Option<Arc<Live>>,
    purpose: Purpose,
    /// Peers that say who the client is.
    trusted: Arc<[IpNet]>,
}

impl<A> HttpCarrier<A> {
    /// Hands connections to `app`, after a handshake if `tls` is given. HTTP/2 is spoken where
    /// traffic is, in plaintext to clients that know of it already (RFC 9113 §3.3). Peers in
    /// `trusted` say first who the client is.
    pub fn new(app: A, tls: Option<Arc<Live>>, purpose: Purpose, trusted: Arc<[IpNet]>) -> Self {
        Self {
            app,
            tls,
            purpose,
            trusted,
        }
    }
}

#[async_trait]
impl<A: Speak> Carry for HttpCarrier<A> {
    async fn carry(&self, mut stream: TcpStream, stopping: watch::Receiver<bool>) {
        let Ok(client) = told(&mut stream, &self.trusted).await else {
            return;
        };
        let Some(tls) = &self.tls else {
            let Some(socket) = Socket::new(stream, client) else {
                return;
            };
            let wire = (self.purpose != Purpose::Traffic).then_some(Wire::Http1);
            return self.app.speak(socket, wire, stopping).await;
        };
        let Some(stream) = prepare(stream, client) else {
            return;
        };
        let acceptor = tls.acceptor(self.purpose);
        let handshake = acceptor.tls_handshake(stream);
        match timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => {
                let wire = match stream.selected_alpn_proto() {
                    Some(ALPN::H2) => Wire::Http2,
                    _ => Wire::Http1,
                };
                self.app.speak(stream, Some(wire), stopping).await;
            }
            Ok(Err(error)) => log::debug!("a TLS handshake failed: {error}"),
            Err(_) => {}
        }
    }

    fn farewell(&self, refusal: &Refusal) -> Option<String> {
        // A handshake for a client that is turned away would cost more than the client.
        self.tls
            .is_none()
            .then(|| Problem::from(refusal).farewell())
    }
}

/// Who the client is, if the peer is one that says so.
async fn told(
    stream: &mut TcpStream,
    trusted: &[IpNet],
) -> Result<Option<SocketAddr>, ProxyProtocolError> {
    let told = proxy_protocol::take_if_trusted(stream, trusted, HANDSHAKE).await;
    told.inspect_err(|error| log::debug!("{error}"))
}

/// What the first bytes of a connection say, and those bytes. `None` if too few come in time.
async fn begins_as<S: IO>(stream: &mut S, patience: Duration) -> Option<(Wire, Vec<u8>)> {
    let look = async {
        let mut first = Vec::with_capacity(Wire::ENOUGH);
        loop {
            let read = stream.read_buf(&mut first).await.ok()?;
            if read == 0 {
                return None;
            }
            if let Some(wire) = Wire::of(&first) {
                return Some((wire, first));
            }
        }
    };
    timeout(patience, look).await.ok().flatten()
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
    /// How long apps are waited for.
    pub timeouts: Timeouts,
    /// Only what flows counts as use, not an open connection.
    pub data_is_use: bool,
    /// Peers that say who the client is.
    pub trusted: Arc<[IpNet]>,
    /// How apps are told who the client is, if they are.
    pub announce: Option<proxy_protocol::Version>,
}

#[async_trait]
impl Carry for TcpCarrier {
    async fn carry(&self, mut stream: TcpStream, _stopping: watch::Receiver<bool>) {
        let Ok(told) = told(&mut stream, &self.trusted).await else {
            return;
        };
        let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
            return;
        };
        let peer = told.unwrap_or(peer);
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
                let hold = circuit.grants.hold_ungranted();
                let stop = hold.stop().child_token();
                let carrying = tcp::carry(stream, upstream, &stop, &meter);
                let idle = self.timeouts.of(circuit.circuit.app.as_deref()).tcp_idle;
                let carrying = end_when_idle(carrying, &meter, idle, &stop);
                let mut spliced = {
                    let data = || meter.total();
                    let data = self.data_is_use.then_some(&data as _);
                    let marking =
                        mark_while(&self.activity, circuit, picked.session, data, carrying);
                    // Large, and one connection's only.
                    Box::pin(marking).await
                };
                if hold.stop().is_cancelled() && !circuit.closed.is_cancelled() {
                    spliced.end = SpliceEnd::Revoked;
                }
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
        Result<(crate::upstream::Picked, Link), Refusal>,
    ) {
        let bound = local.port();
        let port = u16::try_from(i32::from(bound) + self.port_offset).unwrap_or(bound);
        let Some(circuit) = self.table.at_port(port) else {
            return (None, Err(Refusal::UnknownPort(port)));
        };
        if !circuit.clients.admits(peer.ip()) {
            return (Some(circuit), Err(Refusal::ClientAddress));
        }
        let patience = self.timeouts.of(circuit.circuit.app.as_deref());
        let dialled = tcp::dial(
            &circuit.upstreams,
            Ask::default(),
            &self.peers.clone().within(patience.connect),
            &self.prober,
        )
        .await;
        let dialled = match (dialled, self.announce) {
            (Ok((picked, mut upstream)), Some(version)) => {
                let header = proxy_protocol::announce(version, peer, local);
                // A fresh connection has room for it.
                match upstream.begin_with(&header).await {
                    Ok(()) => Ok((picked, upstream)),
                    Err(_) => Err(Refusal::UpstreamBroke),
                }
            }
            (dialled, _) => dialled,
        };
        (Some(circuit), dialled)
    }
}
