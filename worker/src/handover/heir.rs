//! The new process's side: asks whether there is a process to take over from.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wire;

/// Listening sockets, by the addresses they are bound to.
pub type Inherited = Vec<(SocketAddr, TcpListener)>;

/// How long the predecessor may take to give its sockets.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a running process did not hand over.
#[derive(Debug, thiserror::Error)]
#[error("server.handover: the process at {} does not hand its sockets over: {cause}", path.display())]
pub struct HandoverError {
    path: PathBuf,
    cause: io::Error,
}

/// The process whose sockets these are. It goes on serving until it is told that we accept; if
/// this is dropped before, it goes on for good.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
}

impl Predecessor {
    /// Takes the sockets of the process that waits at `path`; `None` if none does.
    ///
    /// # Errors
    /// If there is one and it does not give them.
    pub fn ask(path: &Path) -> Result<Option<(Self, Inherited)>, HandoverError> {
        let Ok(stream) = UnixStream::connect(path) else {
            return Ok(None);
        };
        let take = |mut stream: UnixStream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(wire::TAKE)?;
            let sockets = wire::receive(&mut stream)?;
            Ok((Self { stream }, sockets))
        };
        take(stream).map(Some).map_err(|cause| HandoverError {
            path: path.to_owned(),
            cause,
        })
    }

    /// Tells it that we accept connections: it stops doing so.
    ///
    /// # Errors
    /// If it is gone, which is no harm any more.
    pub fn release(mut self) -> io::Result<()> {
        self.stream.write_all(wire::READY)
    }
}
