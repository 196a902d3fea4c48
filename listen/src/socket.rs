//! Sockets: bound, and prepared for Pingora once accepted.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;

use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{GetSocketDigest as _, SocketDigest};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

/// Connections the system queues for us (the incumbent's figure).
const BACKLOG: i32 = 1_024;

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
pub fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let listen = || -> io::Result<TcpListener> {
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

/// The connection as Pingora wants it, both addresses known, so that nobody asks the system
/// again. `client` is who a balancer says the client is, where one does. `None` if the client is
/// gone already.
pub fn prepare(stream: TcpStream, client: Option<SocketAddr>) -> Option<L4Stream> {
    let (peer, local) = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
    let peer = client.unwrap_or(peer);
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
