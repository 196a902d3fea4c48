//! A worker: its configuration file, its process, its readiness.

use std::path::{Path, PathBuf};

use crate::ports::Ports;
use crate::program::{Program, binary};
use crate::secrets;

/// Domain of wildcard workers; the browser finds its names on this machine.
pub const DOMAIN: &str = ".apps.example";

/// Where a worker's slots are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frontend {
    /// This many ports.
    Ports(u16),
    /// Subdomains of [`DOMAIN`].
    Wildcard,
}

/// What a worker is started with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its authority, also the name of its files.
    pub name: String,
    /// Where its slots are.
    pub frontend: Frontend,
    /// Base URL of its coordinator.
    pub coordinator: String,
    /// The `[redis]` section, or empty.
    pub redis: String,
    /// Lines added to `[proxy_worker]`.
    pub settings: String,
    /// Sections added to the file.
    pub more: String,
    /// Whether plain requests take the fast lane. Not if `PATCHBAY_TEST_FAST_LANE=false`: so
    /// every scenario can be run by either engine.
    pub fast_lane: bool,
}

impl Plan {
    /// A worker called `worker-1` without Redis.
    pub fn new(frontend: Frontend, coordinator: String) -> Self {
        Self {
            name: "worker-1".into(),
            frontend,
            coordinator,
            redis: String::new(),
            settings: String::new(),
            more: String::new(),
            fast_lane: std::env::var("PATCHBAY_TEST_FAST_LANE").as_deref() != Ok("false"),
        }
    }

    /// A whole configuration file, for these ports.
    pub fn configuration(&self, api: u16, slots: &Ports) -> String {
        let Self {
            name,
            coordinator,
            redis,
            settings,
            more,
            ..
        } = self;
        let secrets = secrets::sections();
        let (first, last) = (slots.first(), slots.last());
        let frontend = match self.frontend {
            Frontend::Ports(_) => format!(
                "frontend_mode = \"port\"\nport_proxy = {{ bind_host = \"127.0.0.1\", \
                 bind_port_range = [{first}, {last}], advertised_host = \"127.0.0.1\" }}"
            ),
            Frontend::Wildcard => format!(
                "frontend_mode = \"wildcard\"\nwildcard_domain = {{ domain = \"{DOMAIN}\", \
                 bind_addr = {{ host = \"127.0.0.1\", port = {first} }} }}"
            ),
        };
        format!(
            "{secrets}{redis}[proxy_worker]\ncoordinator_endpoint = \"{coordinator}\"\n\
             authority = \"{name}\"\nprotocol = \"http\"\n\
             accepted_traffics = [\"interactive\", \"inference\"]\nheartbeat_period = 1.0\n\
             api_bind_addr = {{ host = \"127.0.0.1\", port = {api} }}\n{frontend}\n{settings}\n\n\
             [logging]\nlevel = \"INFO\"\n\n{more}\n"
        )
    }
}

/// One worker process.
#[derive(Debug)]
pub struct Worker {
    /// Its process.
    pub program: Program,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its authority.
    pub name: String,
    /// The ports of its range; in wildcard mode, its listener's.
    pub slots: Ports,
    api: Ports,
    client: reqwest::Client,
    heirs: usize,
}

impl Worker {
    /// Writes its configuration into `folder`, starts it and waits until it is ready.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(folder: &Path, plan: &Plan) -> anyhow::Result<Self> {
        let api = Ports::reserve(1)?;
        let slots = Ports::reserve(match plan.frontend {
            Frontend::Ports(count) => count,
            Frontend::Wildcard => 1,
        })?;
        let config = folder.join(format!("{}.toml", plan.name));
        std::fs::write(&config, plan.configuration(api.first(), &slots))?;
        let arguments = vec!["--config".into(), config.display().to_string()];
        let log = folder.join(format!("{}.log", plan.name));
        let binary = binary("patchbay-worker").await?;
        let program = Program::new(&plan.name, binary, arguments, log);
        let fast_lane = if plan.fast_lane { "true" } else { "false" };
        let mut worker = Self {
            program: program.with_variable("PATCHBAY_SERVER__FAST_LANE", fast_lane),
            config,
            name: plan.name.clone(),
            slots,
            api,
            client: crate::browser::client()?,
            heirs: 0,
        };
        worker.start_again().await?;
        Ok(worker)
    }

    /// Starts it after it ended, with the same configuration, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        let url = format!("{}/health/readyz", self.url());
        self.program.start_and_answer(&self.client, &url).await
    }

    /// A second process of the same configuration, not started yet.
    pub fn heir(&mut self) -> Program {
        self.heirs += 1;
        let log = self.config.with_extension(format!("{}.log", self.heirs));
        self.program.sibling(log)
    }

    /// Has a new process take over; answers with the old one, which may still serve.
    ///
    /// # Errors
    /// If it does not take over.
    pub async fn hand_over(&mut self) -> anyhow::Result<Program> {
        let mut heir = self.heir();
        heir.start()?;
        heir.logged(&["the listening sockets are taken over"])
            .await?;
        Ok(std::mem::replace(&mut self.program, heir))
    }

    /// Port of its API.
    pub fn port(&self) -> u16 {
        self.api.first()
    }

    /// Base of its API, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }
}
