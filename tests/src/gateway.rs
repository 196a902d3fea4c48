//! A worker that is only a gateway: its file, its process, requests and WebSockets through it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Method;
use tempfile::TempDir;

use crate::app::App;
use crate::browser::{Answer, Browser, client};
use crate::ports::Ports;
use crate::program::{Program, Signal, binary};
use crate::socket::{self, Handshake};

/// A running gateway; it ends when dropped.
#[derive(Debug)]
pub struct Gateway {
    /// Its process.
    pub program: Program,
    /// Its configuration file.
    pub config: PathBuf,
    /// Everything of its own.
    pub folder: TempDir,
    ports: Ports,
    browser: Browser,
}

impl Gateway {
    /// Starts one with these lines after its addresses, in `[gateway]` and below, and waits until
    /// it is ready.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(lines: &str) -> anyhow::Result<Self> {
        let ports = Ports::reserve(2)?;
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("gateway.toml");
        let arguments = vec!["--config".into(), config.display().to_string()];
        let log = folder.path().join("gateway.log");
        let binary = binary("patchbay-worker").await?;
        let mut gateway = Self {
            program: Program::new("gateway", binary, arguments, log),
            config,
            folder,
            ports,
            browser: Browser::new()?,
        };
        gateway.write(lines)?;
        let ready = format!("{}/health/readyz", gateway.api());
        gateway.program.start_and_answer(&client()?, &ready).await?;
        Ok(gateway)
    }

    /// Writes its configuration, at once and as a whole.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, lines: &str) -> anyhow::Result<()> {
        let (port, admin) = (self.ports.first(), self.ports.last());
        let text = format!(
            "[logging]\nlevel = \"INFO\"\n\n[gateway]\nbind = \"127.0.0.1:{port}\"\n\
             admin_bind = \"127.0.0.1:{admin}\"\n{lines}\n"
        );
        let fresh = self.config.with_extension("new");
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, &self.config)?;
        Ok(())
    }

    /// Writes its configuration and tells it so.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn reload(&self, lines: &str) -> anyhow::Result<()> {
        self.write(lines)?;
        self.program.signal(Signal::Hangup).await
    }

    /// Where clients come in.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.first())
    }

    /// Base of its API.
    pub fn api(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.last())
    }

    /// One request, without cookies kept.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let url = format!("http://{}{path}", self.address());
        let browser = Browser::new()?;
        let mut request = self.browser.request(method, &url)?;
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        browser.send(request).await
    }

    /// A plain GET.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.ask(Method::GET, path, headers).await
    }

    /// The status of a WebSocket handshake; 101 means that it is open and was used.
    ///
    /// # Errors
    /// If the handshake breaks.
    pub async fn upgrade(&self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<u16> {
        let url = format!("ws://{}{path}", self.address());
        let address = self.address().parse()?;
        match socket::handshake_at(&url, address, headers).await? {
            Handshake::Refused(status, _) => Ok(status.as_u16()),
            Handshake::Open(mut socket, _) => {
                let first = socket::next(&mut socket).await?;
                anyhow::ensure!(first.to_text()? == "the app speaks first", "{first}");
                Ok(101)
            }
        }
    }

    /// The status of a GET of `/hello` and of a WebSocket at `/ws/first` with these headers,
    /// which have to be decided alike.
    ///
    /// # Errors
    /// If they are not.
    pub async fn decides(&self, headers: &[(&str, &str)]) -> anyhow::Result<u16> {
        let plain = self.get("/hello", headers).await?.status.as_u16();
        let upgrade = self.upgrade("/ws/first", headers).await?;
        let same = upgrade == plain || (plain, upgrade) == (200, 101);
        anyhow::ensure!(same, "a request gets {plain}, a WebSocket {upgrade}");
        Ok(plain)
    }

    /// As [`Gateway::decides`], and for an event stream at `/events/0` as well.
    ///
    /// # Errors
    /// If they are not decided alike.
    pub async fn decides_streams(&self, headers: &[(&str, &str)]) -> anyhow::Result<u16> {
        let plain = self.decides(headers).await?;
        let mut all = vec![("accept", "text/event-stream")];
        all.extend_from_slice(headers);
        let stream = self.get("/events/0", &all).await?;
        let same = stream.status == plain;
        anyhow::ensure!(same, "a request gets {plain}, a stream {}", stream.status);
        let kind = stream.header("content-type");
        anyhow::ensure!(plain != 200 || kind == "text/event-stream", "it is {kind}");
        Ok(plain)
    }

    /// The text of its metrics.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let url = format!("{}/metrics", self.api());
        Ok(self.browser.get(&url).await?.expect(200)?.text())
    }

    /// Ends it as an operator does.
    ///
    /// # Errors
    /// If it does not end well.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.program
            .stop(Duration::from_secs(10))
            .await
            .context("the gateway does not stop")
    }
}

/// `[gateway.services.NAME]` with these apps.
pub fn service(name: &str, apps: &[&App]) -> String {
    let instances: Vec<String> = apps
        .iter()
        .map(|app| format!("\"{}\"", app.address))
        .collect();
    format!(
        "[gateway.services.{name}]\ninstances = [{}]\n",
        instances.join(", ")
    )
}
