//! The old process's side: waits for a successor and gives it the sockets.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::{Listeners, wire};

/// How long a successor may take to ask, and to take what it is given.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits at a path of the file system for the process that comes after this one.
#[derive(Debug)]
pub struct Giver {
    path: PathBuf,
    listeners: Arc<Listeners>,
    given: AtomicBool,
}

impl Giver {
    /// One that will wait at `path` to give `listeners`.
    pub fn new(path: PathBuf, listeners: Arc<Listeners>) -> Self {
        Self {
            path,
            listeners,
            given: AtomicBool::new(false),
        }
    }

    /// Begins to wait. The place is taken over from a predecessor, whose successors come here now.
    ///
    /// # Errors
    /// If the place cannot be had.
    pub fn open(&self) -> io::Result<UnixListener> {
        // Bound under another name first: there is no moment without anybody at the path.
        let fresh = self.path.with_extension(format!("{}", std::process::id()));
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&fresh, &self.path)?;
        Ok(listener)
    }

    /// Gives the sockets to whoever asks; ends when a successor says that it accepts.
    pub async fn give(&self, listener: UnixListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::error!("a successor cannot be heard: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            match self.serve(stream).await {
                Ok(()) => {
                    self.given.store(true, Ordering::Release);
                    return;
                }
                Err(error) => {
                    log::warn!("a successor did not take over, this process goes on: {error}");
                }
            }
        }
    }

    async fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        let ours =
            std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own))?;
        let theirs = stream.peer_cred()?.uid();
        if theirs != ours && theirs != 0 {
            return Err(io::Error::other(format!("it is of the user {theirs}")));
        }
        let mut word = [0; wire::TAKE.len()];
        timeout(PATIENCE, stream.read_exact(&mut word)).await??;
        if &word != wire::TAKE {
            return Err(io::Error::other("it speaks another protocol"));
        }
        log::info!("a successor takes the listening sockets");
        let sockets = self.listeners.copies()?;
        let mut blocking = stream.into_std()?;
        blocking.set_nonblocking(false)?;
        blocking.set_write_timeout(Some(PATIENCE))?;
        let sending = tokio::task::spawn_blocking(move || {
            wire::send(&mut blocking, &sockets).map(|()| blocking)
        });
        let stream = sending.await.map_err(io::Error::other)??;
        stream.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(stream)?;
        // It starts as every process does, and that may take as long as its coordinator lets it
        // wait. If it ends before, this read does.
        let mut word = [0; wire::READY.len()];
        stream.read_exact(&mut word).await?;
        if &word == wire::READY {
            Ok(())
        } else {
            Err(io::Error::other("it speaks another protocol"))
        }
    }

    /// Whether a successor accepts now.
    pub fn has_given(&self) -> bool {
        self.given.load(Ordering::Acquire)
    }

    /// Where it waits.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Clears the place when the process ends without a successor.
    pub fn close(&self) {
        if !self.has_given() {
            // Nobody would answer there; a successor copes with it either way.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
