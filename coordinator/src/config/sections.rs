//! The sections as they stand in the file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use patchbay_common::config::{ByteSize, HostPort, Seconds, Secret};
use patchbay_discovery::DockerSection;
use serde::{Deserialize, Deserializer};

/// `[proxy_coordinator]` (contract/config.md §3).
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct ProxyCoordinator {
    pub(super) bind_addr: HostPort,
    pub(super) advertised_addr: Option<HostPort>,
    pub(super) announce_addr: Option<HostPort>,
    pub(super) tls_listen: bool,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_privkey: Option<PathBuf>,
    pub(super) tls_advertised: bool,
    pub(super) allow_unauthorized_configure_request: bool,
    pub(super) worker_heartbeat_timeout: Seconds,
    pub(super) metric_access_allowed_hosts: Texts,
    pub(super) unused_circuit_collection_timeout: Seconds,
    /// Names this process in its record for the Manager.
    pub(super) id: Option<String>,
}

impl Default for ProxyCoordinator {
    fn default() -> Self {
        Self {
            bind_addr: HostPort::new("0.0.0.0", 6030),
            advertised_addr: None,
            announce_addr: None,
            tls_listen: false,
            tls_cert: None,
            tls_privkey: None,
            tls_advertised: false,
            allow_unauthorized_configure_request: false,
            worker_heartbeat_timeout: Seconds::from_secs(30),
            metric_access_allowed_hosts: Texts(vec!["127.0.0.1/32".into(), "::1/128".into()]),
            unused_circuit_collection_timeout: Seconds::from_secs(3_600),
            id: None,
        }
    }
}

/// One text or a list of texts.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a network or a list of networks")]
        enum OneOrMany {
            One(String),
            Many(Vec<String>),
        }
        Ok(Self(match OneOrMany::deserialize(deserializer)? {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }))
    }
}

/// `[db]`. The incumbent's settings of its own pool are taken and not used: connections here are
/// checked when they are taken from the pool, and none is opened beyond its size.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Db {
    pub(super) r#type: Option<String>,
    pub(super) path: Option<PathBuf>,
    pub(super) addr: Option<HostPort>,
    pub(super) name: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) pool_size: usize,
    #[serde(rename = "max_overflow")]
    _max_overflow: Option<i64>,
    #[serde(rename = "pool_recycle")]
    _pool_recycle: Option<f64>,
    #[serde(rename = "pool_pre_ping")]
    _pool_pre_ping: Option<bool>,
}

impl Default for Db {
    fn default() -> Self {
        Self {
            r#type: None,
            path: None,
            addr: None,
            name: None,
            user: None,
            password: None,
            pool_size: 8,
            _max_overflow: None,
            _pool_recycle: None,
            _pool_pre_ping: None,
        }
    }
}

/// `[relay]`: the way to apps for clients that can reach only the coordinator.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Relay {
    /// What comes below `/apps/` is carried to the workers.
    pub enabled: bool,
}

/// `[server]`: the process.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Threads that serve the API; 0 means one for each CPU.
    pub threads: usize,
    /// How long requests may go on after SIGTERM.
    pub grace_period: Seconds,
    /// Largest body accepted.
    pub body_limit: ByteSize,
    /// How long a worker may take to serve a circuit before the opening is undone.
    pub acknowledgement_timeout: Seconds,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            threads: 0,
            grace_period: Seconds::from_secs(30),
            body_limit: ByteSize(16 << 20),
            acknowledgement_timeout: Seconds::from_secs(15),
        }
    }
}

/// `[audit]`: what became of circuits.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Audit {
    /// How long its rows are kept.
    pub keep: Seconds,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            keep: Seconds::from_secs(90 * 86_400),
        }
    }
}

/// `[discovery]`: where services are found.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceDiscovery {
    /// Engines whose containers opt in by label.
    pub docker: BTreeMap<String, DockerSection>,
}

/// `[tokens]`: what sessions open their apps with.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// How long one is kept whose session has no circuit.
    pub keep: Seconds,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            keep: Seconds::from_secs(30 * 86_400),
        }
    }
}

/// `[failover]`: where circuits of lost workers go.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Failover {
    /// A port may go to a worker under another host name, where its users have to be told the new
    /// address; otherwise it waits for its worker.
    pub across_hosts: bool,
}
