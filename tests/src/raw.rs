//! HTTP/1.1 by hand, for what a well-behaved client or app never does: headers named in
//! `Connection`, half-closed and broken connections, upgrades in slow motion.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest a read may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection, client's or app's side.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

/// A request's or answer's first line and headers.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The first line.
    pub first_line: String,
    /// The headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The status of an answer.
    pub fn status(&self) -> &str {
        self.first_line.split(' ').nth(1).unwrap_or_default()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Connection {
    /// Connects to an address.
    ///
    /// # Errors
    /// If nobody listens.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        Ok(Self::over(stream))
    }

    /// A connection over an accepted stream.
    pub fn over(stream: TcpStream) -> Self {
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Writes text or bytes.
    ///
    /// # Errors
    /// If the peer is gone.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        let stream = self.stream.get_mut();
        Ok(stream.write_all(bytes.as_ref()).await?)
    }

    /// Writes lines, each ended as HTTP ends lines, and the empty line after them.
    ///
    /// # Errors
    /// If the peer is gone.
    pub async fn write_head(&mut self, lines: &[&str]) -> anyhow::Result<()> {
        self.write(format!("{}\r\n\r\n", lines.join("\r\n"))).await
    }

    /// Reads a line, its end included.
    ///
    /// # Errors
    /// If none comes.
    pub async fn read_line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_line(&mut line)).await;
        ensure!(read.context("no line")?? > 0, "ends before a line");
        Ok(line)
    }

    /// Waits for as long as it takes until a head begins, and reads it.
    ///
    /// # Errors
    /// If the peer ends the connection, or within the head.
    pub async fn read_head_whenever(&mut self) -> anyhow::Result<Head> {
        self.stream.fill_buf().await?;
        self.read_head().await
    }

    /// Reads a head.
    ///
    /// # Errors
    /// If none comes.
    pub async fn read_head(&mut self) -> anyhow::Result<Head> {
        let mut head = Head::default();
        loop {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line);
            let read = tokio::time::timeout(PATIENCE, read).await;
            ensure!(
                read.context("no head")?? > 0,
                "ends within a head: {head:?}"
            );
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(head);
            }
            if head.first_line.is_empty() {
                head.first_line = line.to_owned();
            } else if let Some((name, value)) = line.split_once(':') {
                let name = name.to_ascii_lowercase();
                head.headers.push((name, value.trim().to_owned()));
            } else {
                bail!("not a header: {line}");
            }
        }
    }

    /// Reads exactly as many bytes.
    ///
    /// # Errors
    /// If they do not come.
    pub async fn read_exactly(&mut self, count: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let read = self.stream.read_exact(&mut bytes);
        let read = tokio::time::timeout(PATIENCE, read).await;
        read.with_context(|| format!("{count} bytes do not come"))??;
        Ok(bytes)
    }

    /// Reads until the peer ends its side.
    ///
    /// # Errors
    /// If it does not, or breaks the connection.
    pub async fn read_to_end(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.stream.read_to_end(&mut bytes);
        let read = tokio::time::timeout(PATIENCE, read).await;
        read.context("the peer does not end its side")??;
        Ok(bytes)
    }

    /// Waits for as long as it takes until the peer says something or the connection is over.
    pub async fn stirs(&mut self) {
        // Either ends the silence.
        let _ = self.stream.fill_buf().await;
    }

    /// All that comes until the peer ends its side or the time is up.
    pub async fn read_for(&mut self, time: Duration) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = async {
            while let Ok(count) = self.stream.read_buf(&mut bytes).await {
                if count == 0 {
                    break;
                }
            }
        };
        // What has come by then counts.
        let _ = tokio::time::timeout(time, read).await;
        bytes
    }

    /// Waits until the connection is over, however it ends.
    ///
    /// # Errors
    /// If it stays open.
    pub async fn closed(&mut self) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        let read = self.stream.read_to_end(&mut bytes);
        let over = tokio::time::timeout(PATIENCE, read).await;
        over.context("the connection stays open")?.ok();
        Ok(())
    }

    /// Ends our side; the peer's stays open.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn end_our_side(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.get_mut().shutdown().await?)
    }

    /// Breaks the connection with a reset.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn reset(self) -> anyhow::Result<()> {
        self.stream.get_ref().set_zero_linger()?;
        Ok(())
    }
}

/// An app written by hand: takes one connection and plays its part on it.
#[derive(Debug)]
pub struct OneShotApp<T> {
    /// Where it listens.
    pub address: SocketAddr,
    part: JoinHandle<anyhow::Result<T>>,
}

impl<T: Send + 'static> OneShotApp<T> {
    /// Listens, and plays `part` on the first connection.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start<F>(
        part: impl FnOnce(Connection) -> F + Send + 'static,
    ) -> anyhow::Result<Self>
    where
        F: Future<Output = anyhow::Result<T>> + Send,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let part = tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            part(Connection::over(stream)).await
        });
        Ok(Self { address, part })
    }

    /// What its part came to.
    ///
    /// # Errors
    /// What went wrong in it, or that it does not end.
    pub async fn outcome(mut self) -> anyhow::Result<T> {
        let outcome = tokio::time::timeout(PATIENCE, &mut self.part).await;
        outcome.context("the app waits still")??
    }
}

impl<T> Drop for OneShotApp<T> {
    fn drop(&mut self) {
        self.part.abort();
    }
}
