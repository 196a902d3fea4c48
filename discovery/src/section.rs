//! How an engine is described in a configuration file, a worker's or a coordinator's.

use std::path::PathBuf;

use serde::Deserialize;

use crate::catalog::Addressing;
use crate::docker::{Docker, DockerError, DockerSettings, TlsFiles};

/// Where an engine is if nothing is said.
const USUAL_ENDPOINT: &str = "unix:///var/run/docker.sock";

/// `[gateway.docker.NAME]` of a worker, `[discovery.docker.NAME]` of a coordinator.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DockerSection {
    /// `unix:///var/run/docker.sock` if nothing is said.
    pub endpoint: Option<String>,
    /// The network that addresses are taken from.
    pub network: Option<String>,
    /// Networks whoever calls is on; all, if there is none.
    pub own_networks: Vec<String>,
    /// Take published ports on this host instead.
    pub published_on: Option<String>,
    /// PEM file of who signs the engine's certificate.
    pub tls_ca: Option<PathBuf>,
    /// PEM file of our certificate.
    pub tls_cert: Option<PathBuf>,
    /// PEM file of its key.
    pub tls_key: Option<PathBuf>,
}

impl DockerSection {
    /// A watcher of the engine, which need not be there yet.
    ///
    /// # Errors
    /// What is wrong with the section.
    pub fn watcher(&self, name: &str) -> Result<Docker, DockerError> {
        let tls = match (&self.tls_ca, &self.tls_cert, &self.tls_key) {
            (None, None, None) => None,
            (Some(ca), Some(cert), Some(key)) => Some(TlsFiles {
                ca: ca.clone(),
                cert: cert.clone(),
                key: key.clone(),
            }),
            _ => return Err(DockerError::TlsFiles),
        };
        let endpoint = self.endpoint.as_deref().unwrap_or(USUAL_ENDPOINT);
        Docker::new(DockerSettings {
            name: name.to_owned(),
            endpoint: endpoint.to_owned(),
            tls,
            addressing: Addressing {
                network: self.network.clone(),
                own_networks: self.own_networks.clone(),
                published_on: self.published_on.clone(),
            },
        })
    }
}
