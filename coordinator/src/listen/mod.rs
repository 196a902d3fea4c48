//! The API's socket: bound before anything starts, accepted from until the process drains.
//!
//! The socket is our own and not Pingora's, because an address that is taken has to be one clear
//! line at once, and because a draining process must refuse connections instead of taking them
//! in. What is accepted becomes a Pingora stream, in plaintext or TLS. This room refuses to know
//! HTTP; `wiring` runs it.

mod tls;

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use patchbay_common::lifecycle::Drain;
use pingora_core::apps::ServerApp;
use pingora_core::listeners::tls::Acceptor as TlsAcceptor;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{GetSocketDigest as _, SocketDigest, Stream};
use pingora_core::server::ShutdownWatch;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub use tls::{LiveTls, TlsError, load as load_tls, reload as reload_tls};

/// Connections the system queues for us (the incumbent's figure).
const BACKLOG: i32 = 1_024;
/// Connections open at once. More wait in the system's queue.
const MAX_CONNECTIONS: usize = 16_384;
/// Longest a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after the system refused to give us a connection (too many open files, usually).
const PAUSE: Duration = Duration::from_millis(50);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{address} cannot be listened on: {cause}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub cause: io::Error,
}

/// Listens on an address. Connections wait in the system's queue until they are accepted.
///
/// # Errors
/// If the system refuses, in words that name the address.
pub fn bind(address: SocketAddr) -> Result<StdListener, ListenError> {
    let listen = || -> io::Result<StdListener> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for connections of the past to be forgotten.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    listen().map_err(|cause| ListenError { address, cause })
}

/// Hands connections to `app` until the process drains; then the socket is closed.
///
/// # Errors
/// If the socket cannot be registered with the runtime.
pub async fn accept<A: ServerApp + Send + Sync + 'static>(
    listener: StdListener,
    tls: Option<LiveTls>,
    app: Arc<A>,
    drain: &Drain,
    shutdown: &ShutdownWatch,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut failing = false;
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = drain.stopping() => return Ok(()),
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                let (app, tls, shutdown) = (
                    Arc::clone(&app),
                    tls.as_ref().map(|tls| tls.load_full()),
                    shutdown.clone(),
                );
                tokio::spawn(async move {
                    let _place = place;
                    if let Some(stream) = open(stream, tls).await {
                        app.process_new(stream, &shutdown).await;
                    }
                });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    log::error!("connections cannot be accepted: {error}");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The connection as a Pingora stream, both its addresses known; `None` if it came to nothing.
async fn open(stream: TcpStream, tls: Option<Arc<TlsAcceptor>>) -> Option<Stream> {
    let (peer, local) = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // A fresh digest has no addresses yet.
    let _ = digest.peer_addr.set(Some(peer.into()));
    let _ = digest.local_addr.set(Some(local.into()));
    let mut stream = L4Stream::from(stream);
    // Small answers must not wait for acknowledgements; a socket that cannot be told still works.
    let _ = stream.set_nodelay();
    stream.set_socket_digest(digest);
    let Some(tls) = tls else {
        return Some(Box::new(stream));
    };
    match tokio::time::timeout(HANDSHAKE, tls.tls_handshake(stream)).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            log::debug!("a TLS handshake failed: {error}");
            None
        }
        Err(_) => None,
    }
}
