//! A Redis of a scenario's own, because it will be cut, emptied and restarted.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use patchbay_common::event::{CHANNEL, Message};
use redis::aio::{MultiplexedConnection, PubSub};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::eventually::eventually;
use crate::ports::Ports;

/// A private server that keeps nothing on disk.
#[derive(Debug)]
pub struct RedisServer {
    ports: Ports,
    folder: TempDir,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// If there is no `redis-server` here.
    pub async fn start() -> anyhow::Result<Self> {
        let mut server = Self {
            ports: Ports::reserve(1)?,
            folder: tempfile::tempdir()?,
            child: None,
        };
        server.restart().await?;
        Ok(server)
    }

    /// Its port on the loopback address.
    pub fn port(&self) -> u16 {
        self.ports.first()
    }

    /// The `[redis]` section that leads to it.
    pub fn section(&self) -> String {
        let port = self.port();
        format!("[redis]\naddr = {{ host = \"127.0.0.1\", port = {port} }}\n\n")
    }

    /// Ends it at once; every connection breaks.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Makes it hang, or go on: connections stay and nothing is answered meanwhile.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        let pid = self.child.as_ref().and_then(Child::id);
        let pid = pid.context("Redis does not run")?.to_string();
        let signal = if frozen { "-STOP" } else { "-CONT" };
        let status = Command::new("kill").args([signal, &pid]).status().await?;
        anyhow::ensure!(status.success(), "kill {signal} {pid}: {status}");
        Ok(())
    }

    /// Stops it if it runs, and starts it again on the same port, empty.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        let program =
            std::env::var_os("PATCHBAY_TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let port = self.port().to_string();
        let child = Command::new(&program)
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context(
                "redis-server cannot be started: install the package redis-server, or name the \
                 program in PATCHBAY_TEST_REDIS_SERVER",
            )?;
        self.child = Some(child);
        eventually("Redis answers", Duration::from_secs(10), async || {
            self.command(&["PING"]).await
        })
        .await
    }

    /// Runs one command.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn command(&self, words: &[&str]) -> anyhow::Result<()> {
        let mut connection = self.connect(0).await?;
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.exec_async(&mut connection).await?;
        Ok(())
    }

    /// Breaks every client's connections, subscribers included, as `redis-cli CLIENT KILL` does.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn kill_clients(&self) -> anyhow::Result<()> {
        for kind in ["normal", "pubsub"] {
            self.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
                .await?;
        }
        Ok(())
    }

    /// Begins to listen to the events of coordinators and workers.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn listen(&self) -> anyhow::Result<Events> {
        let client = redis::Client::open(self.url(0))?;
        let mut subscription = client.get_async_pubsub().await?;
        subscription.subscribe(CHANNEL).await?;
        Ok(Events(subscription))
    }

    /// Whether anyone but a scenario listens to the events.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn listeners(&self) -> anyhow::Result<u64> {
        let mut connection = self.connect(0).await?;
        let (_, count): (String, u64) = redis::cmd("PUBSUB")
            .arg(&["NUMSUB", CHANNEL])
            .query_async(&mut connection)
            .await?;
        Ok(count)
    }

    /// A connection to one of its databases.
    ///
    /// # Errors
    /// If it cannot be reached.
    pub async fn connect(&self, database: u8) -> anyhow::Result<MultiplexedConnection> {
        let client = redis::Client::open(self.url(database))?;
        Ok(client.get_multiplexed_async_connection().await?)
    }

    fn url(&self, database: u8) -> String {
        format!("redis://127.0.0.1:{}/{database}", self.port())
    }
}

/// The events that pass while a scenario listens.
pub struct Events(PubSub);

impl Events {
    /// The next event for which `wanted` answers, with its raw text; others are passed over.
    ///
    /// # Errors
    /// If none comes within 5 s.
    pub async fn next(
        &mut self,
        wanted: impl Fn(&Message) -> bool,
    ) -> anyhow::Result<(Message, String)> {
        let mut messages = self.0.on_message();
        let next = async {
            while let Some(message) = messages.next().await {
                let bytes = message.get_payload_bytes();
                if let Some(event) = Message::from_wire(bytes)?
                    && wanted(&event)
                {
                    return Ok((event, String::from_utf8_lossy(bytes).into_owned()));
                }
            }
            anyhow::bail!("Redis closed the subscription")
        };
        tokio::time::timeout(Duration::from_secs(5), next)
            .await
            .context("no such event within 5 s")?
    }
}
