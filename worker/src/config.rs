//! What the operator decides, checked as a whole (contract/config.md §4 and our own sections).

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use patchbay_common::circuit::{AppMode, FrontendMode, Protocol};
use patchbay_common::cli::{CommonArgs, LogFormat};
use patchbay_common::client_ips::parse_network;
use patchbay_common::config::{
    ConfigError, Discovery, HostPort, Loader, Logging, Mistake, PermitHash, Redis, RedisAddress,
    Seconds, Secret, Secrets, Strictness, environment,
};
use patchbay_common::permit::PermitKey;
use patchbay_common::token::TokenKey;
use patchbay_common::worker::AppFilter;
use patchbay_listen::{proxy_protocol, tls};

mod limits;
mod sections;
mod timeouts;
mod upstreams;

use crate::gateway::config::GatewayConfig;

pub use limits::Limits;
pub use sections::{Cors, Counting, Http2, Permit, Server, Sync};
use sections::{PortProxy, ProxyProtocolSection, ProxyWorker, WildcardDomain};
pub use timeouts::{Patience, Timeouts};

/// Where the file may be.
pub const DISCOVERY: Discovery = Discovery {
    names: &[
        "patchbay-worker",
        "worker",
        "app-proxy-worker",
        "proxy-worker",
    ],
};

const WORKER: &str = "proxy_worker";
const METRIC_ACCESS: &str = "proxy_worker.metric_access_allowed_hosts";

/// Everything the worker runs by.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from.
    pub file: Option<PathBuf>,
    /// Name of this worker; processes of equal name are its nodes.
    pub authority: String,
    /// Name of this process among the worker's nodes.
    pub node_id: String,
    /// Base URL of the coordinator, without a trailing slash.
    pub coordinator: String,
    /// Verify the coordinator's certificate.
    pub verify_coordinator: bool,
    /// What the circuits of this worker speak.
    pub protocol: Protocol,
    /// Which circuits it takes.
    pub accepted_traffics: Vec<AppMode>,
    /// Takes only circuits that a filter names.
    pub filtered_apps_only: bool,
    /// Circuits it takes by preference.
    pub app_filters: Vec<AppFilter>,
    /// Where its slots are.
    pub frontend: Frontend,
    /// Where its API listens.
    pub api_bind: SocketAddr,
    /// Where clients reach its API.
    pub api_advertised: HostPort,
    /// TLS of API and traffic.
    pub tls: Option<tls::Plan>,
    /// Clients come by TLS, ours or a terminator's in front.
    pub tls_advertised: bool,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Who may read `/metrics`.
    pub metric_access: Vec<IpNet>,
    /// Redis, if events and activity marks go through it.
    pub redis: Option<RedisSettings>,
    /// Token of the coordinator's API.
    pub api_secret: Secret,
    /// Key of setup and endpoint tokens.
    pub tokens: TokenKey,
    /// Key of permits.
    pub permits: PermitKey,
    /// Seconds between heartbeats.
    pub heartbeat_period: Seconds,
    /// Form of the access log.
    pub log_format: LogFormat,
    /// `[server]`.
    pub server: Server,
    /// `[permit]`.
    pub permit: Permit,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[sync]`.
    pub sync: Sync,
    /// `[metrics]`.
    pub metrics: Counting,
    /// `[cors]`.
    pub cors: Cors,
    /// `[http2]`.
    pub http2: Http2,
    /// `[proxy_protocol]`.
    pub proxy_protocol: ProxyProtocol,
    /// Whether there are circuits: a worker without `[proxy_worker]` is a gateway only, and what
    /// is said of circuits above stands in for them.
    pub has_circuits: bool,
    /// `[gateway]`; also there where `[tunnels]` alone is.
    pub gateway: Option<GatewayConfig>,
    /// `[tunnels]`.
    pub tunnels: Option<crate::tunnel::Settings>,
    /// `[limits]`.
    pub limits: Limits,
    /// `[upstreams]`.
    pub upstreams: crate::upstream::Settings,
}

/// Where the worker's slots are.
#[derive(Clone, Debug, PartialEq)]
pub enum Frontend {
    /// Ports.
    Port {
        /// Address they are bound on.
        bind: IpAddr,
        /// First and last.
        range: (u16, u16),
        /// First port clients see for `range.0`; the others follow in step.
        advertised_first: u16,
        /// Host clients see.
        advertised_host: String,
    },
    /// Subdomains.
    Wildcard {
        /// The domain with its leading dot, lower case.
        domain: String,
        /// Where the listener is.
        bind: SocketAddr,
        /// Port clients see.
        advertised_port: u16,
    },
}

impl Frontend {
    /// The mode's wire name.
    pub fn mode(&self) -> FrontendMode {
        match self {
            Self::Port { .. } => FrontendMode::Port,
            Self::Wildcard { .. } => FrontendMode::Wildcard,
        }
    }
}

/// Who clients are, said by balancers in front and to apps behind.
#[derive(Clone, Debug)]
pub struct ProxyProtocol {
    /// Peers whose connections begin with a header, always. No other peer is believed.
    pub trusted: Vec<IpNet>,
    /// What connections of TCP circuits to apps begin with.
    pub upstream: Option<proxy_protocol::Version>,
}

/// How Redis is reached.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Where it is.
    pub address: RedisAddress,
    /// Password of the default user.
    pub password: Option<Secret>,
}

impl Config {
    /// Reads the configuration and installs the logger it asks for. `examine` may look at what it
    /// leads to (certificates, addresses) and add to the mistakes, so that all are told together;
    /// what was mistaken stands there as a default.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(
        args: &CommonArgs,
        examine: impl FnOnce(&Self, &mut Loader),
    ) -> Result<Self, ConfigError> {
        let file = DISCOVERY.find(args.config.as_deref());
        let (config, mut loader) = Self::read(file.as_deref(), environment(), args)?;
        examine(&config, &mut loader);
        loader.finish()?;
        Ok(config)
    }

    /// As [`Config::load`], from this file and environment.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_file(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        args: &CommonArgs,
    ) -> Result<Self, ConfigError> {
        let (config, loader) = Self::read(file, environment, args)?;
        loader.finish()?;
        Ok(config)
    }

    fn read(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        args: &CommonArgs,
    ) -> Result<(Self, Loader), ConfigError> {
        let mut loader = Loader::open(file, environment)?;
        let l = &mut loader;
        let logging: Logging = l.section("logging", Strictness::Theirs);
        logging.install(args, l);
        let has_circuits = l.has(WORKER) || !GatewayConfig::is_in(l);
        let gateway = GatewayConfig::read(l);
        let tunnels = crate::tunnel::Settings::read(l, |name| std::env::var(name).ok());
        let worker = match &gateway {
            Some(gateway) if !has_circuits => ProxyWorker::absent(gateway),
            _ => l.section::<ProxyWorker>(WORKER, Strictness::Theirs),
        };
        let redis: Redis = l.section("redis", Strictness::Theirs);
        let mut secrets: Secrets = l.section("secrets", Strictness::Theirs);
        let mut permit_hash: PermitHash = l.section("permit_hash", Strictness::Theirs);
        if !has_circuits {
            let coordinated = gateway.as_ref().is_some_and(|gateway| gateway.follows);
            sections::fill(&mut secrets, &mut permit_hash, coordinated);
        }
        let config = Self {
            authority: l.require(WORKER, "authority", worker.authority.clone()),
            node_id: worker.id.clone().unwrap_or_else(sections::node_id),
            coordinator: coordinator(l, worker.coordinator_endpoint.as_deref()),
            verify_coordinator: worker.verify_coordinator_ssl_certificate,
            protocol: protocol(l, worker.protocol),
            accepted_traffics: l.require(
                WORKER,
                "accepted_traffics",
                worker.accepted_traffics.clone(),
            ),
            filtered_apps_only: worker.filtered_apps_only,
            app_filters: worker.app_filters.clone(),
            frontend: frontend(l, &worker),
            api_bind: resolve(l, "api_bind_addr", &worker.api_bind_addr),
            api_advertised: worker.api_advertised(),
            tls: tls(l, &worker),
            tls_advertised: worker.tls_advertised,
            trusted_proxies: networks(l, "proxy_worker.trusted_proxies", &worker.trusted_proxies.0),
            metric_access: networks(l, METRIC_ACCESS, &worker.metric_access_allowed_hosts.0),
            redis: redis.address(l).map(|address| RedisSettings {
                address,
                password: redis.password.clone(),
            }),
            api_secret: secrets.require_api(l),
            tokens: secrets.require_jwt(l),
            permits: permit_hash.require(l),
            heartbeat_period: worker.heartbeat_period,
            log_format: args.log_format.or(logging.format).unwrap_or_default(),
            server: l.section::<Server>("server", Strictness::Ours).check(l),
            permit: l.section("permit", Strictness::Ours),
            timeouts: timeouts::read(l),
            sync: l.section("sync", Strictness::Ours),
            metrics: l.section("metrics", Strictness::Ours),
            cors: l.section("cors", Strictness::Ours),
            http2: l.section("http2", Strictness::Ours),
            proxy_protocol: proxy_protocol(l),
            has_circuits,
            gateway,
            tunnels,
            file: file.map(Path::to_owned),
            limits: l.section::<Limits>("limits", Strictness::Ours).check(l),
            upstreams: upstreams::read(l),
        };
        config.cross_check(l);
        Ok((config, loader))
    }

    /// Whether clients reach the worker by TLS.
    pub fn uses_tls(&self) -> bool {
        self.tls.is_some() || self.tls_advertised
    }

    fn cross_check(&self, loader: &mut Loader) {
        if let Frontend::Port { bind, range, .. } = &self.frontend {
            let (api, shared) = (
                self.api_bind,
                bind.is_unspecified() || *bind == self.api_bind.ip(),
            );
            let shared = shared || self.api_bind.ip().is_unspecified();
            if shared && (range.0..=range.1).contains(&api.port()) {
                loader.mistake(Mistake::new(
                    "proxy_worker.port_proxy.bind_port_range",
                    format!(
                        "{}-{} contains the API port {} (api_bind_addr): move one of them",
                        range.0,
                        range.1,
                        api.port()
                    ),
                ));
            }
        }
        if let Frontend::Wildcard { bind, .. } = &self.frontend
            && *bind == self.api_bind
            && bind.port() != 0
        {
            loader.mistake(Mistake::new(
                "proxy_worker.wildcard_domain.bind_addr",
                format!("{bind} is the API's address too: move one of them"),
            ));
        }
        let taken = |bind: &SocketAddr| *bind == self.api_bind && bind.port() != 0;
        if self
            .gateway
            .as_ref()
            .is_some_and(|gateway| gateway.binds.iter().any(taken))
        {
            loader.mistake(Mistake::new(
                "gateway.bind",
                format!(
                    "{} is the API's address too: move one of them",
                    self.api_bind
                ),
            ));
        }
        if self.heartbeat_period.0.is_zero() {
            loader.mistake(Mistake::new(
                "proxy_worker.heartbeat_period",
                "must be more than 0: 10 is usual",
            ));
        }
    }
}

fn coordinator(loader: &mut Loader, endpoint: Option<&str>) -> String {
    let url: String = loader.require(
        WORKER,
        "coordinator_endpoint",
        endpoint.map(|url| url.trim_end_matches('/').to_owned()),
    );
    if !url.is_empty() && !url.starts_with("http://") && !url.starts_with("https://") {
        loader.mistake(Mistake::new(
            "proxy_worker.coordinator_endpoint",
            format!("`{url}` is not a URL: write http://host:6030"),
        ));
    }
    url
}

fn protocol(loader: &mut Loader, given: Option<Protocol>) -> Protocol {
    let protocol = loader.require(WORKER, "protocol", given);
    if protocol != protocol.carried() {
        loader.mistake(Mistake::new(
            "proxy_worker.protocol",
            format!(
                "`{}` is carried as `{}`: write that",
                protocol.as_str(),
                protocol.carried().as_str()
            ),
        ));
    }
    protocol
}

fn frontend(loader: &mut Loader, worker: &ProxyWorker) -> Frontend {
    let mode: String = loader.require(WORKER, "frontend_mode", worker.frontend_mode.clone());
    match mode.as_str() {
        "port" => port_frontend(loader, worker.port_proxy.as_ref()),
        "wildcard" => wildcard_frontend(loader, worker),
        _ => {
            if !mode.is_empty() {
                loader.mistake(Mistake::new(
                    "proxy_worker.frontend_mode",
                    format!("`{mode}` is not offered: write port or wildcard"),
                ));
            }
            port_frontend(loader, Some(&PortProxy::placeholder()))
        }
    }
}

fn port_frontend(loader: &mut Loader, section: Option<&PortProxy>) -> Frontend {
    const SECTION: &str = "proxy_worker.port_proxy";
    let section: PortProxy = loader.require(WORKER, "port_proxy", section.cloned());
    let range = match section.bind_port_range.as_deref() {
        Some(&[first, last]) if first <= last && first > 0 => (first, last),
        Some(_) => {
            loader.mistake(Mistake::new(
                format!("{SECTION}.bind_port_range"),
                "must be [first, last] with 0 < first <= last",
            ));
            (1, 1)
        }
        None => loader.require(SECTION, "bind_port_range", None),
    };
    let advertised = match section.advertised_port_range.as_deref() {
        None => range,
        Some(&[first, last])
            if u32::from(last) + u32::from(range.0) == u32::from(first) + u32::from(range.1) =>
        {
            (first, last)
        }
        Some(_) => {
            loader.mistake(Mistake::new(
                format!("{SECTION}.advertised_port_range"),
                "must be [first, last] and as long as bind_port_range",
            ));
            range
        }
    };
    let host = section.bind_host.unwrap_or_else(|| "0.0.0.0".into());
    let key = "port_proxy.bind_host";
    let bind = resolve(loader, key, &HostPort::new(host.clone(), range.0)).ip();
    Frontend::Port {
        bind,
        range,
        advertised_first: advertised.0,
        advertised_host: section.advertised_host.unwrap_or(host),
    }
}

fn wildcard_frontend(loader: &mut Loader, worker: &ProxyWorker) -> Frontend {
    const SECTION: &str = "proxy_worker.wildcard_domain";
    let section: WildcardDomain =
        loader.require(WORKER, "wildcard_domain", worker.wildcard_domain.clone());
    let mut domain: String = loader.require(SECTION, "domain", section.domain);
    domain.make_ascii_lowercase();
    if !domain.is_empty() && !domain.starts_with('.') {
        domain.insert(0, '.');
    }
    let address = loader
        .require(SECTION, "bind_addr", section.bind_addr.map(Some))
        .unwrap_or_else(|| HostPort::new("127.0.0.1", 0));
    let bind = resolve(loader, "wildcard_domain.bind_addr", &address);
    if worker.protocol == Some(Protocol::Tcp) {
        loader.mistake(Mistake::new(
            "proxy_worker.frontend_mode",
            "a TCP worker cannot tell subdomains apart: write port",
        ));
    }
    Frontend::Wildcard {
        domain,
        bind,
        advertised_port: section.advertised_port.unwrap_or(bind.port()),
    }
}

fn resolve(loader: &mut Loader, key: &str, address: &HostPort) -> SocketAddr {
    let found = (address.host.as_str(), address.port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut all| all.next());
    found.unwrap_or_else(|| {
        loader.mistake(Mistake::new(
            format!("{WORKER}.{key}"),
            format!(
                "`{}` is neither an address nor a name that resolves",
                address.host
            ),
        ));
        SocketAddr::from(([127, 0, 0, 1], address.port))
    })
}

fn tls(loader: &mut Loader, worker: &ProxyWorker) -> Option<tls::Plan> {
    tls::read(
        loader,
        tls::Incumbent {
            section: WORKER,
            listen: worker.tls_listen,
            cert: worker.tls_cert.as_deref(),
            privkey: worker.tls_privkey.as_deref(),
        },
    )
}

fn proxy_protocol(loader: &mut Loader) -> ProxyProtocol {
    let section: ProxyProtocolSection = loader.section("proxy_protocol", Strictness::Ours);
    ProxyProtocol {
        trusted: networks(loader, "proxy_protocol.trusted", &section.trusted.0),
        upstream: section.upstream,
    }
}

fn networks(loader: &mut Loader, key: &str, entries: &[String]) -> Vec<IpNet> {
    let mut out = Vec::new();
    for entry in entries {
        match parse_network(entry.trim()) {
            Some(network) => out.push(network),
            None => loader.mistake(Mistake::new(
                key,
                format!("`{entry}` is neither an address nor a network"),
            )),
        }
    }
    out
}
