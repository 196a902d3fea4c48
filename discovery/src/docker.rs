//! Watches one Docker engine, over its Unix socket, TCP or TLS.
//!
//! The list of containers is asked for at the start, after every event that could change it, and
//! every half minute in case an event was lost. While the engine cannot be reached the last
//! catalog stays, and it is tried again after longer and longer pauses.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use bollard::API_DEFAULT_VERSION;
use bollard::models::{ContainerSummary, EventMessage};
use bollard::query_parameters::{EventsOptions, ListContainersOptions};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::catalog::{Addressing, Catalog};
use crate::labels::Container;

/// Between lists nobody has asked for.
const REFRESH: Duration = Duration::from_secs(30);
/// Events come in swarms: one list answers all that come within this time.
const GATHER: Duration = Duration::from_millis(50);
/// Pauses after failures.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Patience with one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most containers looked at.
const MAX_CONTAINERS: usize = 10_000;

/// Events after which the list may be another.
const CHANGES: [&str; 11] = [
    "start", "die", "stop", "kill", "destroy", "pause", "unpause", "restart", "rename", "update",
    "oom",
];

/// Which engine, and how its containers are reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DockerSettings {
    /// Name of the engine, for logs.
    pub name: String,
    /// `unix:///var/run/docker.sock`, `tcp://host:2375` or `https://host:2376`.
    pub endpoint: String,
    /// Authority, certificate and key for TLS, PEM files.
    pub tls: Option<TlsFiles>,
    /// How addresses of containers are found.
    pub addressing: Addressing,
}

/// PEM files of a TLS client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who signs the engine's certificate.
    pub ca: PathBuf,
    /// The client's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What went wrong with an engine.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// The endpoint is none that is offered.
    #[error("`{0}` is no endpoint: write unix:///path, tcp://host:port or https://host:port")]
    Endpoint(String),
    /// TLS is asked for without its files.
    #[error("https needs tls_ca, tls_cert and tls_key")]
    TlsFiles,
    /// The engine or its client.
    #[error("{0}")]
    Engine(#[from] bollard::errors::Error),
    /// It takes too long.
    #[error("it does not answer within {0:?}")]
    Silent(Duration),
    /// The stream of events ended.
    #[error("its events ended")]
    EventsEnded,
}

/// One engine being watched.
#[derive(Debug)]
pub struct Docker {
    settings: DockerSettings,
    /// Complaints that were made, so that each is made once.
    complaints: BTreeSet<String>,
}

impl Docker {
    /// Gets ready; nothing is asked yet, and the engine need not be there.
    ///
    /// # Errors
    /// [`DockerError::Endpoint`], [`DockerError::TlsFiles`].
    pub fn new(settings: DockerSettings) -> Result<Self, DockerError> {
        let endpoint = &settings.endpoint;
        match endpoint.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => {}
            Some(("tcp" | "http", host)) if !host.is_empty() => {}
            Some(("https", host)) if !host.is_empty() && settings.tls.is_some() => {}
            Some(("https", _)) => return Err(DockerError::TlsFiles),
            _ => return Err(DockerError::Endpoint(endpoint.clone())),
        }
        Ok(Self {
            settings,
            complaints: BTreeSet::new(),
        })
    }

    fn connect(&self) -> Result<bollard::Docker, DockerError> {
        let (seconds, version) = (PATIENCE.as_secs(), API_DEFAULT_VERSION);
        let endpoint = self.settings.endpoint.as_str();
        Ok(match &self.settings.tls {
            _ if endpoint.starts_with("unix://") => {
                bollard::Docker::connect_with_unix(endpoint, seconds, version)?
            }
            Some(TlsFiles { ca, cert, key }) => {
                bollard::Docker::connect_with_ssl(endpoint, key, cert, ca, seconds, version)?
            }
            None => bollard::Docker::connect_with_http(endpoint, seconds, version)?,
        })
    }

    /// Keeps `catalog` as the engine's containers say, until the task is dropped. There is none
    /// before the engine was reached for the first time.
    pub async fn watch(mut self, catalog: watch::Sender<Option<Catalog>>) {
        let mut pause = FIRST_PAUSE;
        let mut failing = false;
        loop {
            let began = Instant::now();
            let cause = match self.follow(&catalog, &mut failing).await {
                Ok(never) => match never {},
                Err(cause) => cause,
            };
            let name = &self.settings.name;
            if !failing {
                log::warn!("docker {name}: what was found stays, trying again: {cause}");
            }
            failing = true;
            // One that worked for a while is tried again at once.
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn follow(
        &mut self,
        catalog: &watch::Sender<Option<Catalog>>,
        failing: &mut bool,
    ) -> Result<std::convert::Infallible, DockerError> {
        // Older engines refuse versions they do not know.
        let client = self.connect()?;
        let client = within(client.negotiate_version()).await??;
        // Events first: what changes while the list is on its way is heard of.
        let events = client.events(Some(EventsOptions {
            filters: Some(filter(&[("type", "container"), ("label", ENABLE_TRUE)])),
            ..EventsOptions::default()
        }));
        tokio::pin!(events);
        loop {
            self.list(&client, catalog).await?;
            if *failing {
                log::info!("docker {}: reached again", self.settings.name);
                *failing = false;
            }
            let refresh = Instant::now() + REFRESH;
            tokio::select! {
                change = next_change(&mut events) => {
                    change?;
                    settle(&mut events).await?;
                }
                () = sleep_until(refresh) => {}
            }
        }
    }

    async fn list(
        &mut self,
        client: &bollard::Docker,
        catalog: &watch::Sender<Option<Catalog>>,
    ) -> Result<(), DockerError> {
        let filters = filter(&[("label", ENABLE_TRUE), ("status", "running")]);
        let options = ListContainersOptions {
            filters: Some(filters),
            ..ListContainersOptions::default()
        };
        let listed = within(client.list_containers(Some(options))).await??;
        let containers: Vec<Container> = listed
            .into_iter()
            .take(MAX_CONTAINERS)
            .map(container)
            .collect();
        let mut complaints = BTreeSet::new();
        let mut complain = |name: &str, text: String| {
            complaints.insert(format!("container {name}: {text}"));
        };
        let addressing = &self.settings.addressing;
        let found = Catalog::gather(&containers, addressing, &mut complain);
        for complaint in complaints.difference(&self.complaints) {
            log::error!("docker {}: {complaint}", self.settings.name);
        }
        self.complaints = complaints;
        catalog.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&found);
            if changed {
                *known = Some(found);
            }
            changed
        });
        Ok(())
    }
}

/// Opts in; see [`crate::labels::ENABLE`].
const ENABLE_TRUE: &str = "gateway.enable=true";

async fn within<T>(work: impl Future<Output = T>) -> Result<T, DockerError> {
    timeout(PATIENCE, work)
        .await
        .map_err(|_| DockerError::Silent(PATIENCE))
}

fn filter(pairs: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
    let mut filters: HashMap<String, Vec<String>> = HashMap::new();
    for (key, value) in pairs {
        let values = filters.entry((*key).to_owned()).or_default();
        values.push((*value).to_owned());
    }
    filters
}

/// Waits for an event that may change the list.
async fn next_change(
    events: &mut (impl Stream<Item = Result<EventMessage, bollard::errors::Error>> + Unpin),
) -> Result<(), DockerError> {
    loop {
        let event = events.next().await.ok_or(DockerError::EventsEnded)??;
        let action = event.action.unwrap_or_default();
        if CHANGES.contains(&action.as_str()) || action.starts_with("health_status") {
            return Ok(());
        }
    }
}

/// Takes in what comes close behind an event.
async fn settle(
    events: &mut (impl Stream<Item = Result<EventMessage, bollard::errors::Error>> + Unpin),
) -> Result<(), DockerError> {
    let end = Instant::now() + GATHER;
    loop {
        tokio::select! {
            event = events.next() => drop(event.ok_or(DockerError::EventsEnded)??),
            () = sleep_until(end) => return Ok(()),
        }
    }
}

fn container(summary: ContainerSummary) -> Container {
    let status = summary.status.unwrap_or_default();
    let names = summary.names.unwrap_or_default();
    let name = names.first().map(|name| name.trim_start_matches('/'));
    let listed = summary.ports.unwrap_or_default();
    let inside: BTreeSet<u16> = listed.iter().map(|port| port.private_port).collect();
    let published: BTreeSet<(u16, u16)> = listed
        .iter()
        .filter_map(|port| Some((port.private_port, port.public_port?)))
        .collect();
    let networks = summary.network_settings.and_then(|all| all.networks);
    let networks = networks.unwrap_or_default().into_iter();
    Container {
        id: summary.id.unwrap_or_default(),
        name: name.unwrap_or_default().to_owned(),
        labels: summary.labels.unwrap_or_default().into_iter().collect(),
        ports: inside.into_iter().collect(),
        published: published.into_iter().collect(),
        networks: networks
            .map(|(name, endpoint)| (name, endpoint.ip_address.unwrap_or_default()))
            .collect(),
        // `Up 5 minutes (healthy)`; without a check there is no word in brackets.
        healthy: !status.contains("(unhealthy)") && !status.contains("(health: starting)"),
    }
}
