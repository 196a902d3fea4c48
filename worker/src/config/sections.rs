//! The sections as they stand in the file.

use std::num::NonZeroU32;
use std::path::PathBuf;

use patchbay_common::circuit::{AppMode, Protocol};
use patchbay_common::config::{
    ByteSize, HostPort, Loader, Mistake, PermitHash, Seconds, Secret, Secrets,
};
use patchbay_common::worker::AppFilter;
use patchbay_listen::proxy_protocol::Version;
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use crate::gateway::config::GatewayConfig;

/// `[proxy_worker]` (contract/config.md §4).
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct ProxyWorker {
    pub(super) coordinator_endpoint: Option<String>,
    pub(super) verify_coordinator_ssl_certificate: bool,
    pub(super) authority: Option<String>,
    pub(super) id: Option<String>,
    pub(super) frontend_mode: Option<String>,
    pub(super) protocol: Option<Protocol>,
    pub(super) accepted_traffics: Option<Vec<AppMode>>,
    pub(super) api_bind_addr: HostPort,
    pub(super) api_advertised_addr: Option<HostPort>,
    pub(super) port_proxy: Option<PortProxy>,
    pub(super) wildcard_domain: Option<WildcardDomain>,
    pub(super) tls_listen: bool,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_privkey: Option<PathBuf>,
    pub(super) tls_advertised: bool,
    pub(super) heartbeat_period: Seconds,
    pub(super) app_filters: Vec<AppFilter>,
    pub(super) filtered_apps_only: bool,
    pub(super) trusted_proxies: Texts,
    pub(super) metric_access_allowed_hosts: Texts,
}

impl Default for ProxyWorker {
    fn default() -> Self {
        Self {
            coordinator_endpoint: None,
            verify_coordinator_ssl_certificate: true,
            authority: None,
            id: None,
            frontend_mode: None,
            protocol: None,
            accepted_traffics: None,
            api_bind_addr: HostPort::new("0.0.0.0", 10201),
            api_advertised_addr: None,
            port_proxy: None,
            wildcard_domain: None,
            tls_listen: false,
            tls_cert: None,
            tls_privkey: None,
            tls_advertised: false,
            heartbeat_period: Seconds::from_secs(10),
            app_filters: Vec::new(),
            filtered_apps_only: false,
            trusted_proxies: Texts::default(),
            metric_access_allowed_hosts: Texts(vec!["127.0.0.1/32".into(), "::1/128".into()]),
        }
    }
}

impl ProxyWorker {
    /// Stands in where there is no such section: nothing listens for circuits then.
    pub(super) fn absent(gateway: &GatewayConfig) -> Self {
        let api_bind = gateway.admin_bind;
        let coordinator = gateway.coordinator.as_deref();
        let nowhere = HostPort::new("127.0.0.1", 0);
        Self {
            coordinator_endpoint: Some(coordinator.unwrap_or("http://127.0.0.1:6030").into()),
            authority: Some("gateway".into()),
            frontend_mode: Some("wildcard".into()),
            wildcard_domain: Some(WildcardDomain {
                domain: Some(".invalid".into()),
                bind_addr: Some(nowhere),
                advertised_port: None,
            }),
            protocol: Some(Protocol::Http),
            accepted_traffics: Some(Vec::new()),
            api_bind_addr: HostPort::new(api_bind.ip().to_string(), api_bind.port()),
            ..Self::default()
        }
    }
}

/// Fills in what only circuits need; the API's secret is needed for services of a coordinator too.
pub(super) fn fill(secrets: &mut Secrets, permit_hash: &mut PermitHash, coordinated: bool) {
    if !coordinated {
        secrets.api_secret.get_or_insert_with(unguessable);
    }
    secrets.jwt_secret.get_or_insert_with(unguessable);
    permit_hash.secret.get_or_insert_with(unguessable);
}

/// A secret that nobody is ever told: what it guards stays shut.
fn unguessable() -> Secret {
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    Secret::new(format!("{one}{two}"))
}

impl ProxyWorker {
    /// Where the API is found by others.
    pub(super) fn api_advertised(&self) -> HostPort {
        let given = self.api_advertised_addr.clone();
        given.unwrap_or_else(|| self.api_bind_addr.clone())
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

/// `[proxy_worker.port_proxy]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PortProxy {
    pub(super) bind_host: Option<String>,
    pub(super) bind_port_range: Option<Vec<u16>>,
    pub(super) advertised_host: Option<String>,
    pub(super) advertised_port_range: Option<Vec<u16>>,
}

impl PortProxy {
    /// Stands in where the mode itself is missing and reported.
    pub(super) fn placeholder() -> Self {
        Self {
            bind_port_range: Some(vec![1, 1]),
            ..Self::default()
        }
    }
}

/// `[proxy_worker.wildcard_domain]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WildcardDomain {
    pub(super) domain: Option<String>,
    pub(super) bind_addr: Option<HostPort>,
    pub(super) advertised_port: Option<u16>,
}

/// `[server]`: the process.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Threads that carry traffic; 0 means one for each CPU.
    pub threads: usize,
    /// How long requests and streams may go on after SIGTERM.
    pub grace_period: Seconds,
    /// Write a log line for every request.
    pub access_log: bool,
    /// Of requests that went well, one of so many has its line; of others each.
    pub access_log_every: NonZeroU32,
    /// A request that takes longer has a line, marked as slow; 0: none is.
    pub slow_request: Seconds,
    /// Write a log line for every message of a WebSocket.
    pub websocket_messages: bool,
    /// Most client connections at once; 0 means no limit but the system's.
    pub max_connections: usize,
    /// Requests remembered for `GET /api/explain/{request-id}`; 0 means none.
    pub explain_requests: usize,
    /// Carry plain HTTP/1.1 requests by the fast lane.
    pub fast_lane: bool,
    /// But not those of these apps, by name, and of these circuits, by id.
    pub fast_lane_off: Vec<String>,
    /// Unix socket at which a new process takes over the listening sockets of this one.
    pub handover: Option<PathBuf>,
    /// How long connections are served after that.
    pub handover_max_age: Seconds,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            threads: 0,
            grace_period: Seconds::from_secs(30),
            access_log: true,
            access_log_every: NonZeroU32::MIN,
            slow_request: Seconds::from_secs(0),
            websocket_messages: false,
            max_connections: 0,
            explain_requests: 4_096,
            fast_lane: true,
            fast_lane_off: Vec::new(),
            handover: None,
            handover_max_age: Seconds::from_secs(3_600),
        }
    }
}

impl Server {
    /// Notes what cannot be.
    pub(super) fn check(self, loader: &mut Loader) -> Self {
        if self.fast_lane_off.iter().any(|name| name.trim().is_empty()) {
            loader.mistake(Mistake::new(
                "server.fast_lane_off",
                "names no app: write it as [\"jupyter\", \"a circuit's id\"]",
            ));
        }
        self
    }
}

/// `[permit]`: permit cookies.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Permit {
    /// How long a permit is good.
    pub lifetime: Seconds,
    /// Also set and accept the incumbent's permit: one per user, for all apps, for ever.
    pub legacy: bool,
}

impl Default for Permit {
    fn default() -> Self {
        Self {
            lifetime: Seconds::from_secs(7 * 86_400),
            legacy: false,
        }
    }
}

/// `[sync]`: how the circuits are kept current.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Sync {
    /// Between full fetches that repair whatever no other means noticed.
    pub refetch_interval: Seconds,
    /// Between writes of activity marks to Redis.
    pub activity_interval: Seconds,
    /// Only data counts as use of a stream: not an open connection, nor pings.
    pub data_is_use: bool,
}

impl Default for Sync {
    fn default() -> Self {
        Self {
            refetch_interval: Seconds::from_secs(60),
            activity_interval: Seconds::from_secs(1),
            data_is_use: false,
        }
    }
}

/// `[metrics]`: what is counted beside the rest.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Counting {
    /// The incumbent's label `remote`: the client's address, the kernel's.
    pub remote_label: bool,
}

/// `[cors]`: what is said about other origins on proxied answers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Cors {
    /// Write `Access-Control-Allow-Origin: *` over what the app says, as the incumbent does.
    /// Otherwise it is only added where the app says nothing.
    pub r#override: bool,
}

/// `[http2]`: limits of HTTP/2 connections, from clients and to upstreams.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default)]
pub struct Http2 {
    /// Requests open at once on one client connection.
    pub max_streams: NonZeroU32,
    /// Header bytes of one request, decoded (RFC 9113 §6.5.2).
    pub max_header_list: ByteSize,
    /// Streams a client may reset before they are worked on, at once, until its connection is cut
    /// (CVE-2023-44487, "rapid reset").
    pub max_pending_resets: NonZeroU32,
    /// Body bytes a client may send ahead, for one request.
    pub stream_window: ByteSize,
    /// Body bytes a client may send ahead, for a whole connection.
    pub connection_window: ByteSize,
    /// Requests open at once on one connection to an upstream; more open another connection.
    pub max_upstream_streams: NonZeroU32,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            max_streams: NonZeroU32::new(128).unwrap_or(NonZeroU32::MIN),
            max_header_list: ByteSize(64 * 1_024),
            max_pending_resets: NonZeroU32::new(64).unwrap_or(NonZeroU32::MIN),
            stream_window: ByteSize(256 * 1_024),
            connection_window: ByteSize(1_024 * 1_024),
            max_upstream_streams: NonZeroU32::new(256).unwrap_or(NonZeroU32::MIN),
        }
    }
}

/// `[proxy_protocol]`: who clients are, said by balancers in front and to apps behind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ProxyProtocolSection {
    /// Peers whose connections begin with a header, always. No other peer is believed.
    pub(super) trusted: Texts,
    /// What connections of TCP circuits to apps begin with.
    pub(super) upstream: Option<Version>,
}

/// The name of a node that was given none.
pub(super) fn node_id() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => "i-localhost".into(),
        host => format!("i-{host}"),
    }
}
