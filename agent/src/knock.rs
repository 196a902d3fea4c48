//! How many connections knock at a service at a time. A service takes connections out of a queue,
//! which is short (128 is common); the system resets those it has no room for, some of them after it
//! has answered them, and what was sent over them is lost. So a connection counts as knocking until
//! the service has said something, or has had time to take it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that knock at one service at a time: half of the shortest queue that is common.
const KNOCKING: usize = 64;
/// Time in which a service takes a connection out of its queue, though it may have nothing to say.
pub(crate) const TAKEN_WITHIN: Duration = Duration::from_millis(50);

/// The door of one service.
#[derive(Clone, Debug)]
pub(crate) struct Door(Arc<Semaphore>);

impl Default for Door {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(KNOCKING)))
    }
}

/// A connection that knocks. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Knock(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Door {
    /// Waits for a turn.
    pub(crate) async fn knock(&self) -> Knock {
        // A semaphore that is never closed has no error to tell; without a turn nobody waits.
        let turn = Arc::clone(&self.0).acquire_owned().await.ok();
        Knock(Arc::new(Mutex::new(turn)))
    }
}

impl Knock {
    /// It has been heard: the next one may knock.
    pub(crate) fn heard(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A connection that is heard as soon as something comes from it.
pub(crate) struct Knocking<S> {
    service: S,
    knock: Option<Knock>,
}

impl<S> Knocking<S> {
    pub(crate) fn new(service: S, knock: Knock) -> Self {
        let knock = Some(knock);
        Self { service, knock }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Knocking<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.service).poll_read(cx, buffer);
        if read.is_ready()
            && let Some(knock) = self.knock.take()
        {
            knock.heard();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Knocking<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.service).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.service).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.service).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::timeout;

    #[tokio::test]
    async fn few_knock_at_a_time_and_who_is_heard_makes_way() {
        let door = Door::default();
        let mut knocks = Vec::new();
        for _ in 0..KNOCKING {
            knocks.push(door.knock().await);
        }
        assert!(timeout(TAKEN_WITHIN, door.knock()).await.is_err());
        let (near, mut far) = duplex(16);
        let first = knocks.pop().unwrap();
        let mut service = Knocking::new(near, first.clone());
        far.write_all(b"hello").await.unwrap();
        service.read_exact(&mut [0; 5]).await.unwrap();
        assert!(timeout(TAKEN_WITHIN, door.knock()).await.is_ok());
        knocks[0].heard();
        assert!(timeout(TAKEN_WITHIN, door.knock()).await.is_ok());
    }
}
