//! An app that keeps every byte it is given, to show what reached it and what did not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A running recorder; it ends when dropped.
#[derive(Debug)]
pub struct Recorder {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// Starts one on a free loopback port.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let book = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(record(stream, Arc::clone(&book)));
            }
        });
        Ok(Self {
            address,
            seen,
            task,
        })
    }

    /// Everything since it was last asked, of all connections.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *lock(&self.seen))
    }

    /// Everything since it was last taken, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.seen)).into_owned()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(seen: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every head is answered as soon as it is whole; what follows it is kept all the same.
async fn record(mut stream: TcpStream, book: Arc<Mutex<Vec<u8>>>) {
    let mut tail = Vec::new();
    let mut buffer = vec![0; 16 * 1_024];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        lock(&book).extend_from_slice(&buffer[..count]);
        tail.extend_from_slice(&buffer[..count]);
        while let Some(end) = tail.windows(4).position(|four| four == b"\r\n\r\n") {
            let is_head = tail[..end].windows(6).any(|word| word == b"HTTP/1");
            tail.drain(..end + 4);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if is_head && stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}
