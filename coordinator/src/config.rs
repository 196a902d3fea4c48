//! What the operator decides, checked as a whole (contract/config.md §2, §3 and our own section).

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use patchbay_common::cli::CommonArgs;
use patchbay_common::client_ips::parse_network;
use patchbay_common::config::{
    ConfigError, Discovery, HostPort, Loader, Logging, Mistake, PermitHash, Redis, Secret, Secrets,
    Strictness, environment,
};
use patchbay_common::token::TokenKey;
use patchbay_listen::tls;

use crate::publish::redis::RedisSettings;
use crate::store::PostgresConfig;

mod sections;
#[cfg(test)]
mod tests;

pub use sections::{Audit, Failover, Relay, Server, ServiceDiscovery, Tokens};
use sections::{Db, ProxyCoordinator};

/// Where the file may be.
pub const DISCOVERY: Discovery = Discovery {
    names: &[
        "patchbay-coordinator",
        "coordinator",
        "app-proxy-coordinator",
        "proxy-coordinator",
    ],
};

const COORDINATOR: &str = "proxy_coordinator";
const DB: &str = "db";

/// Everything the coordinator runs by.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API listens.
    pub bind: SocketAddr,
    /// Base URL under which clients reach it, without a trailing slash.
    pub advertise_url: String,
    /// Name of this process among the coordinators.
    pub name: String,
    /// Where Prometheus is told to find `/metrics`.
    pub announce: HostPort,
    /// TLS of the API.
    pub tls: Option<tls::Plan>,
    /// `POST /v2/conf` needs no credential.
    pub allow_unauthorized_configure: bool,
    /// Time without use after which a circuit is idle.
    pub idle_after: std::time::Duration,
    /// Silence after which a worker is lost.
    pub worker_timeout: std::time::Duration,
    /// Who may read `/metrics`.
    pub metric_access: Vec<IpNet>,
    /// Where the state is kept.
    pub database: Database,
    /// Redis, if workers are told by it too.
    pub redis: Option<RedisSettings>,
    /// Token of the API.
    pub api_secret: Secret,
    /// Key of setup tokens.
    pub jwt: TokenKey,
    /// `[server]`.
    pub server: Server,
    /// `[relay]`.
    pub relay: Relay,
    /// `[audit]`.
    pub audit: Audit,
    /// `[tokens]`.
    pub tokens: Tokens,
    /// `[failover]`.
    pub failover: Failover,
    /// `[discovery]`.
    pub discovery: ServiceDiscovery,
}

/// Where the state is kept.
#[derive(Clone, Debug)]
pub enum Database {
    /// In one file of this machine.
    Sqlite {
        /// The file; it is made if its folder is there.
        path: PathBuf,
    },
    /// In a PostgreSQL database, which coordinators may share.
    Postgres(PostgresConfig),
}

impl Database {
    /// Its name in health reports.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { path } => write!(f, "{}", path.display()),
            Self::Postgres(database) => {
                let address = HostPort::new(database.host.as_str(), database.port);
                write!(f, "{} at {address}", database.name)
            }
        }
    }
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
        let coordinator: ProxyCoordinator = l.section(COORDINATOR, Strictness::Theirs);
        let db: Db = l.section(DB, Strictness::Theirs);
        let redis: Redis = l.section("redis", Strictness::Theirs);
        let secrets: Secrets = l.section("secrets", Strictness::Theirs);
        // The workers' alone; taken so that one file can be shared with them.
        let _: PermitHash = l.section("permit_hash", Strictness::Theirs);
        let config = Self {
            bind: resolve(l, &coordinator.bind_addr),
            advertise_url: advertise_url(&coordinator),
            name: coordinator.id.clone().unwrap_or_else(|| "main".to_owned()),
            announce: announce(&coordinator),
            tls: tls(l, &coordinator),
            allow_unauthorized_configure: coordinator.allow_unauthorized_configure_request,
            idle_after: coordinator.unused_circuit_collection_timeout.0,
            worker_timeout: coordinator.worker_heartbeat_timeout.0,
            metric_access: networks(l, &coordinator.metric_access_allowed_hosts.0),
            database: database(l, db),
            redis: redis.address(l).map(|address| RedisSettings {
                address,
                password: redis.password.clone(),
            }),
            api_secret: secrets.require_api(l),
            jwt: secrets.require_jwt(l),
            server: l.section("server", Strictness::Ours),
            relay: l.section("relay", Strictness::Ours),
            audit: l.section("audit", Strictness::Ours),
            tokens: l.section("tokens", Strictness::Ours),
            failover: l.section("failover", Strictness::Ours),
            discovery: l.section("discovery", Strictness::Ours),
        };
        config.cross_check(l);
        Ok((config, loader))
    }

    fn cross_check(&self, loader: &mut Loader) {
        for (name, engine) in &self.discovery.docker {
            if let Err(problem) = engine.watcher(name) {
                let key = format!("discovery.docker.{name}");
                loader.mistake(Mistake::new(key, problem));
            }
        }
        let positive = [
            (
                "proxy_coordinator.worker_heartbeat_timeout",
                self.worker_timeout,
                30,
            ),
            (
                "server.acknowledgement_timeout",
                self.server.acknowledgement_timeout.0,
                15,
            ),
            ("audit.keep", self.audit.keep.0, 7_776_000),
            ("tokens.keep", self.tokens.keep.0, 2_592_000),
        ];
        for (key, duration, usual) in positive {
            if duration.is_zero() {
                let fix = format!("must be more than 0: {usual} is usual");
                loader.mistake(Mistake::new(key, fix));
            }
        }
        if self.server.body_limit.0 == 0 {
            loader.mistake(Mistake::new(
                "server.body_limit",
                "must be more than 0: \"16MiB\" is usual",
            ));
        }
    }
}

/// How a client on this machine reaches the API that a configuration file describes.
#[derive(Clone, Debug)]
pub struct ApiPlace {
    /// Base URL, without a trailing slash.
    pub url: String,
    /// Its token.
    pub secret: Secret,
}

impl ApiPlace {
    /// Reads no more than it needs: who asks may not be allowed to read the server's key, and
    /// what is wrong elsewhere in the file is not theirs to mend.
    ///
    /// # Errors
    /// What is wrong with these parts of the configuration.
    pub fn from_file(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut loader = Loader::open(file, environment)?;
        let coordinator: ProxyCoordinator = loader.section(COORDINATOR, Strictness::Theirs);
        let secrets: Secrets = loader.section("secrets", Strictness::Theirs);
        let place = Self {
            url: local_url(&coordinator),
            secret: secrets.require_api(&mut loader),
        };
        loader.finish()?;
        Ok(place)
    }
}

/// The API's own socket, on the loopback address if it listens on all; with TLS the advertised
/// name, which is the one its certificate is for.
fn local_url(section: &ProxyCoordinator) -> String {
    if section.tls_listen {
        return advertise_url(section);
    }
    let bound = &section.bind_addr;
    let host = match bound.host.as_str() {
        "0.0.0.0" | "" => "127.0.0.1",
        "::" | "[::]" => "::1",
        host => host,
    };
    format!("http://{}", HostPort::new(host, bound.port))
}

fn resolve(loader: &mut Loader, address: &HostPort) -> SocketAddr {
    let found = (address.host.as_str(), address.port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut all| all.next());
    found.unwrap_or_else(|| {
        let problem = format!(
            "`{}` is neither an address nor a name that resolves",
            address.host
        );
        loader.mistake(Mistake::new(format!("{COORDINATOR}.bind_addr"), problem));
        SocketAddr::from(([127, 0, 0, 1], address.port))
    })
}

/// The advertised host may bring its scheme along; the port is always said.
fn advertise_url(section: &ProxyCoordinator) -> String {
    let address = section.advertised_addr.as_ref();
    let address = address.unwrap_or(&section.bind_addr);
    if ["http://", "https://"]
        .iter()
        .any(|scheme| address.host.starts_with(scheme))
    {
        return format!("{}:{}", address.host.trim_end_matches('/'), address.port);
    }
    let tls = section.tls_listen || section.tls_advertised;
    format!("{}://{address}", if tls { "https" } else { "http" })
}

/// Where this process is; several may share the advertised address. A scheme that the host brings
/// along is left out.
fn announce(section: &ProxyCoordinator) -> HostPort {
    let address = section.announce_addr.as_ref();
    let address = address.or(section.advertised_addr.as_ref());
    let address = address.unwrap_or(&section.bind_addr);
    let host = address.host.rsplit("://").next().unwrap_or_default();
    HostPort::new(host, address.port)
}

fn tls(loader: &mut Loader, section: &ProxyCoordinator) -> Option<tls::Plan> {
    tls::read(
        loader,
        tls::Incumbent {
            section: COORDINATOR,
            listen: section.tls_listen,
            cert: section.tls_cert.as_deref(),
            privkey: section.tls_privkey.as_deref(),
        },
    )
}

fn networks(loader: &mut Loader, entries: &[String]) -> Vec<IpNet> {
    let mut out = Vec::new();
    for entry in entries {
        match parse_network(entry.trim()) {
            Some(network) => out.push(network),
            None => loader.mistake(Mistake::new(
                format!("{COORDINATOR}.metric_access_allowed_hosts"),
                format!("`{entry}` is neither an address nor a network"),
            )),
        }
    }
    out
}

fn database(loader: &mut Loader, section: Db) -> Database {
    // A file of the incumbent may leave the type out, but never the address.
    let kind = match (&section.r#type, &section.addr) {
        (Some(kind), _) => kind.clone(),
        (None, Some(_)) => "postgresql".to_owned(),
        (None, None) => "sqlite".to_owned(),
    };
    match kind.as_str() {
        "sqlite" => Database::Sqlite {
            path: section.path.unwrap_or_else(default_path),
        },
        "postgresql" | "postgres" => {
            let address = loader.require(DB, "addr", section.addr.map(Some));
            if section.pool_size == 0 {
                let fix = "must be more than 0: 8 is usual";
                loader.mistake(Mistake::new("db.pool_size", fix));
            }
            let address = address.unwrap_or_else(|| HostPort::new("127.0.0.1", 5432));
            Database::Postgres(PostgresConfig {
                host: address.host,
                port: address.port,
                name: loader.require(DB, "name", section.name),
                user: loader.require(DB, "user", section.user),
                password: loader.require(DB, "password", section.password),
                pool_size: section.pool_size,
            })
        }
        other => {
            let fix = format!("`{other}` is not offered: write sqlite or postgresql");
            loader.mistake(Mistake::new("db.type", fix));
            Database::Sqlite {
                path: default_path(),
            }
        }
    }
}

/// Where a service manager gives us a folder for state, there; else in the working folder.
fn default_path() -> PathBuf {
    let folder = std::env::var("STATE_DIRECTORY").unwrap_or_default();
    // systemd lists several folders with colons between.
    let folder = folder.split(':').next().unwrap_or_default();
    Path::new(folder).join("patchbay.sqlite")
}
