//! The coordinator: its configuration file, its process, its readiness.

use std::path::PathBuf;

use crate::ports::Ports;
use crate::postgres::Database;
use crate::program::{Program, binary};
use crate::secrets;

/// Where a coordinator keeps its state.
#[derive(Clone, Debug)]
pub enum Store {
    /// One file.
    Sqlite(PathBuf),
    /// A PostgreSQL database, which coordinators may share.
    Postgres(Database),
}

impl Store {
    /// The `[db]` section that leads to it.
    pub fn section(&self) -> String {
        match self {
            Self::Sqlite(path) => {
                let path = path.display();
                format!("[db]\ntype = \"sqlite\"\npath = \"{path}\"\n\n")
            }
            Self::Postgres(database) => database.section(),
        }
    }
}

/// One coordinator process.
#[derive(Debug)]
pub struct Coordinator {
    /// Its process.
    pub program: Program,
    /// Its configuration file.
    pub config: PathBuf,
    ports: Ports,
    client: reqwest::Client,
}

impl Coordinator {
    /// Writes `name.toml` into `folder`, starts a coordinator with it and waits until it answers.
    /// `redis` is the section or empty, `more` further sections of the file.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(
        folder: &std::path::Path,
        name: &str,
        store: &Store,
        redis: &str,
        more: &str,
    ) -> anyhow::Result<Self> {
        let ports = Ports::reserve(1)?;
        let config = folder.join(format!("{name}.toml"));
        std::fs::write(&config, configuration(ports.first(), store, redis, more))?;
        let arguments = vec!["--config".into(), config.display().to_string()];
        let log = folder.join(format!("{name}.log"));
        let mut coordinator = Self {
            program: Program::new(name, binary("patchbay-coordinator").await?, arguments, log),
            config,
            ports,
            client: crate::browser::client()?,
        };
        coordinator.start_again().await?;
        Ok(coordinator)
    }

    /// Starts it after it ended, with the same configuration, and waits until it answers.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        let url = format!("{}/status", self.url());
        self.program.start_and_answer(&self.client, &url).await
    }

    /// Starts it anew with one more line in its `[proxy_coordinator]` section.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start_with(&mut self, line: &str) -> anyhow::Result<()> {
        const SECTION: &str = "[proxy_coordinator]\n";
        let file = std::fs::read_to_string(&self.config)?;
        let changed = file.replace(SECTION, &format!("{SECTION}{line}\n"));
        std::fs::write(&self.config, changed)?;
        self.program.kill().await?;
        self.start_again().await
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.ports.first()
    }

    /// Base of its API, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }
}

/// A whole configuration file.
pub fn configuration(port: u16, store: &Store, redis: &str, more: &str) -> String {
    let secrets = secrets::sections();
    let store = store.section();
    // The Manager sends no token with its first call, so real installations allow that.
    format!(
        "{secrets}{store}{redis}[proxy_coordinator]\n\
         bind_addr = {{ host = \"127.0.0.1\", port = {port} }}\n\
         allow_unauthorized_configure_request = true\n\n\
         [logging]\nlevel = \"INFO\"\n\n{more}\n"
    )
}
