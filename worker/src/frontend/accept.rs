//! The accept loop.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Carry;

/// Pause after the system refused to give us a connection (too many open files, usually).
const PAUSE: Duration = Duration::from_millis(50);

/// Bounds the connections of all listeners together.
#[derive(Debug, Default)]
pub struct ConnectionGate {
    open: AtomicUsize,
    limit: usize,
}

/// One open connection.
#[derive(Debug)]
pub(super) struct OpenConnection(Arc<ConnectionGate>);

impl ConnectionGate {
    /// At most `limit` connections; 0 means no limit.
    pub fn new(limit: usize) -> Self {
        Self {
            open: AtomicUsize::new(0),
            limit,
        }
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn enter(self: &Arc<Self>) -> Option<OpenConnection> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let admitted = OpenConnection(Arc::clone(self));
        (self.limit == 0 || before < self.limit).then_some(admitted)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
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
    pub async fn run(self, listener: StdListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        let mut stopping = self.stopping.clone();
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    failing = false;
                    self.dispatch(stream);
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

    /// Moves the connection to a runtime thread of its own choosing, so that its events arrive
    /// where it is worked on.
    fn dispatch(&self, stream: TcpStream) {
        let Some(open) = self.gate.enter() else {
            return;
        };
        let carrier = Arc::clone(&self.carrier);
        let stopping = self.stopping.clone();
        let Ok(stream) = stream.into_std() else {
            return;
        };
        pingora_runtime::current_handle().spawn(async move {
            let _open = open;
            if let Ok(stream) = TcpStream::from_std(stream) {
                carrier.carry(stream, stopping).await;
            }
        });
    }
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
