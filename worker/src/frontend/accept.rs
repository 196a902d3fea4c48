//! The accept loop.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Carry;
use crate::error::Refusal;

/// Pause after the system refused to give us a connection (too many open files, usually).
const PAUSE: Duration = Duration::from_millis(50);

/// Clients that are told at once why they are turned away; others are just let go.
const TOLD_AT_ONCE: usize = 256;
/// How long a client that is turned away may take to read why.
const FAREWELL: Duration = Duration::from_millis(500);

/// Bounds the connections of all listeners together, and those of one address.
#[derive(Debug, Default)]
pub struct ConnectionGate {
    open: AtomicUsize,
    limit: usize,
    by_address: DashMap<IpAddr, usize, ahash::RandomState>,
    limit_by_address: usize,
    told: AtomicUsize,
}

/// One open connection.
#[derive(Debug)]
pub(super) struct OpenConnection {
    gate: Arc<ConnectionGate>,
    address: Option<IpAddr>,
}

impl ConnectionGate {
    /// At most `limit` connections; 0 means no limit.
    pub fn new(limit: usize) -> Self {
        Self::per_address(limit, 0)
    }

    /// At most `limit` connections, and `by_address` of one address; 0 means no limit.
    pub fn per_address(limit: usize, by_address: usize) -> Self {
        Self {
            limit,
            limit_by_address: by_address,
            ..Self::default()
        }
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn enter(self: &Arc<Self>, peer: IpAddr) -> Result<OpenConnection, Refusal> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let mut admitted = OpenConnection {
            gate: Arc::clone(self),
            address: None,
        };
        if self.limit != 0 && before >= self.limit {
            return Err(Refusal::Busy);
        }
        if self.limit_by_address != 0 {
            let address = customer(peer);
            let mut count = self.by_address.entry(address).or_default();
            if *count >= self.limit_by_address {
                return Err(Refusal::AddressBusy);
            }
            *count += 1;
            admitted.address = Some(address);
        }
        Ok(admitted)
    }

    fn leave(&self, address: IpAddr) {
        if let Entry::Occupied(mut entry) = self.by_address.entry(address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// What one customer is given: an IPv4 address, or an IPv6 network of 64 bits.
fn customer(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) & (u128::MAX << 64);
            IpAddr::V6(network.into())
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address {
            self.gate.leave(address);
        }
    }
}

/// Accepts connections and hands them on until the process stops.
#[derive(Debug)]
pub struct Acceptor<C> {
    carrier: Arc<C>,
    gate: Arc<ConnectionGate>,
    stopping: watch::Receiver<bool>,
}

impl<C> Clone for Acceptor<C> {
    fn clone(&self) -> Self {
        Self {
            carrier: Arc::clone(&self.carrier),
            gate: Arc::clone(&self.gate),
            stopping: self.stopping.clone(),
        }
    }
}

impl<C: Carry> Acceptor<C> {
    /// Hands connections to `carrier` while `gate` admits them.
    pub fn new(
        carrier: Arc<C>,
        gate: Arc<ConnectionGate>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            carrier,
            gate,
            stopping,
        }
    }

    /// Runs the loop for one socket; returns when the process stops.
    ///
    /// # Errors
    /// If the socket cannot be registered with the runtime.
    pub async fn run(self, listener: TcpListener) -> io::Result<()> {
        #[expect(
            deprecated,
            reason = "unsound for what does not keep its descriptor, which a listener does"
        )]
        let listener = AsyncFd::with_interest(listener, Interest::READABLE)?;
        let mut stopping = self.stopping.clone();
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
                accepted = listener.async_io(Interest::READABLE, accept) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    failing = false;
                    self.dispatch(stream, peer.ip());
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if !failing {
                        log::error!("connections cannot be accepted: {error}");
                    }
                    failing = true;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Gives the connection to a runtime thread of its own choosing, so that its events arrive
    /// where it is worked on.
    fn dispatch(&self, stream: StdStream, peer: IpAddr) {
        let open = match self.gate.enter(peer) {
            Ok(open) => open,
            Err(refusal) => return self.turn_away(stream, &refusal),
        };
        let carrier = Arc::clone(&self.carrier);
        let stopping = self.stopping.clone();
        pingora_runtime::current_handle().spawn(async move {
            let _open = open;
            if let Ok(stream) = TcpStream::from_std(stream) {
                carrier.carry(stream, stopping).await;
            }
        });
    }
}

impl<C: Carry> Acceptor<C> {
    /// Says why, where the client can read it, and closes.
    fn turn_away(&self, stream: StdStream, refusal: &Refusal) {
        let Some(farewell) = self.carrier.farewell(refusal) else {
            return;
        };
        let gate = Arc::clone(&self.gate);
        if gate.told.fetch_add(1, Ordering::Relaxed) >= TOLD_AT_ONCE {
            gate.told.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        tokio::spawn(async move {
            let telling = async {
                let mut stream = TcpStream::from_std(stream)?;
                stream.write_all(farewell.as_bytes()).await?;
                stream.shutdown().await?;
                // What is unread when a connection closes takes with it what was written.
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
            };
            // A client that does not listen has had its chance.
            let _ = tokio::time::timeout(FAREWELL, telling).await;
            gate.told.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// A connection that no runtime knows yet: the one that works on it will be the first.
fn accept(listener: &TcpListener) -> io::Result<(StdStream, SocketAddr)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (stream, peer) = acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((stream.into(), peer))
}

/// Errors that say something about one connection, not about the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(limit: usize, by_address: usize) -> Arc<ConnectionGate> {
        Arc::new(ConnectionGate::per_address(limit, by_address))
    }

    #[test]
    fn one_address_does_not_take_the_place_of_others() {
        let gate = gate(4, 2);
        let enter = |peer: &str| gate.enter(peer.parse().unwrap());
        let held = [enter("192.0.2.1").unwrap(), enter("192.0.2.1").unwrap()];
        assert_eq!(enter("192.0.2.1").unwrap_err(), Refusal::AddressBusy);
        // The same address in IPv6's clothes.
        assert_eq!(enter("::ffff:192.0.2.1").unwrap_err(), Refusal::AddressBusy);
        let other = enter("192.0.2.2").unwrap();
        drop(held);
        assert!(enter("192.0.2.1").is_ok());
        drop(other);
        assert!(
            gate.by_address.is_empty(),
            "nothing is kept of who has left"
        );
        assert_eq!(gate.open(), 0);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let gate = gate(0, 1);
        let _held = gate.enter("2001:db8:0:1::1".parse().unwrap()).unwrap();
        let same = gate.enter("2001:db8:0:1:ffff::2".parse().unwrap());
        assert_eq!(same.unwrap_err(), Refusal::AddressBusy);
        assert!(gate.enter("2001:db8:0:2::1".parse().unwrap()).is_ok());
    }

    #[test]
    fn the_whole_is_bounded_too() {
        let gate = gate(1, 0);
        let held = gate.enter("192.0.2.1".parse().unwrap()).unwrap();
        let refused = gate.enter("192.0.2.2".parse().unwrap());
        assert_eq!(refused.unwrap_err(), Refusal::Busy);
        drop(held);
        assert!(gate.enter("192.0.2.2".parse().unwrap()).is_ok());
    }
}
