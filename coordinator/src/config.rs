//! The coordinator's configuration: the incumbent's file as it is (contract/config.md §2–3), and
//! our own section `[server]`, which is strict.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use patchbay_common::cli::CommonArgs;
use patchbay_common::client_ips::parse_network;
use patchbay_common::config::{
    ByteSize, Discovery, HostPort, Loader, Logging, Mistake, PermitHash, Redis, Seconds, Secret,
    Secrets, Strictness,
};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::api::ApiSettings;
use crate::publish::redis::RedisSettings;

/// Where the file may be (contract/config.md §1).
pub const DISCOVERY: Discovery = Discovery {
    names: &[
        "patchbay-coordinator",
        "app-proxy-coordinator",
        "proxy-coordinator",
    ],
};

/// The port when the file names none.
const DEFAULT_PORT: u16 = 6030;

/// Everything the operator settled.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API listens.
    pub bind: HostPort,
    /// Certificate and key, if it speaks TLS.
    pub tls: Option<TlsFiles>,
    /// What the API needs to know.
    pub api: ApiSettings,
    /// A worker silent for longer is lost.
    pub heartbeat_timeout: Duration,
    /// Where the truth is kept.
    pub database: Database,
    /// The incumbent's bus, if there is one.
    pub redis: Option<RedisSettings>,
    /// How the process runs.
    pub server: Server,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Where the truth is kept.
#[derive(Clone, Debug)]
pub enum Database {
    /// One file.
    Sqlite(PathBuf),
    /// A server.
    Postgres(Postgres),
}

/// How to reach PostgreSQL.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// The server.
    pub addr: HostPort,
    /// Name of the database.
    pub name: String,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// Most connections held.
    pub connections: usize,
}

/// `[server]`, ours.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Longest wait for exchanges in flight when the process is told to stop.
    pub grace_period: Seconds,
    /// Largest request body.
    pub body_limit: ByteSize,
    /// Threads that serve the API; 0 is one for each CPU.
    pub threads: usize,
    /// How long a worker may take to serve a new circuit before the opening is undone.
    pub acknowledgement_timeout: Seconds,
    /// Connections served at once.
    pub max_connections: usize,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            grace_period: Seconds::from_secs(30),
            body_limit: ByteSize(16 << 20),
            threads: 0,
            acknowledgement_timeout: Seconds::from_secs(15),
            max_connections: 10_000,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Coordinator {
    bind_addr: Option<HostPort>,
    advertised_addr: Option<HostPort>,
    tls_listen: bool,
    tls_cert: Option<PathBuf>,
    tls_privkey: Option<PathBuf>,
    tls_advertised: bool,
    allow_unauthorized_configure_request: bool,
    worker_heartbeat_timeout: Option<Seconds>,
    metric_access_allowed_hosts: Option<Networks>,
    // Known, accepted, and without a meaning while nothing is collected or elected.
    #[serde(rename = "id")]
    _id: Option<String>,
    #[serde(rename = "unused_circuit_collection_timeout")]
    _unused_circuit_collection_timeout: Option<Seconds>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Db {
    #[serde(rename = "type")]
    kind: Option<String>,
    path: Option<PathBuf>,
    addr: Option<HostPort>,
    name: Option<String>,
    user: Option<String>,
    password: Option<Secret>,
    pool_size: Option<usize>,
    max_overflow: Option<usize>,
    #[serde(rename = "pool_recycle")]
    _pool_recycle: Option<f64>,
    #[serde(rename = "pool_pre_ping")]
    _pool_pre_ping: Option<bool>,
}

/// One network or a list of them.
#[derive(Clone, Debug)]
struct Networks(Vec<IpNet>);

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "must be a network or a list of networks")]
        enum Form {
            One(String),
            Many(Vec<String>),
        }
        let entries = match Form::deserialize(deserializer)? {
            Form::One(entry) => vec![entry],
            Form::Many(entries) => entries,
        };
        let network = |entry: String| {
            parse_network(entry.trim())
                .ok_or_else(|| D::Error::custom(format!("`{entry}` is neither an address nor a network")))
        };
        entries.into_iter().map(network).collect::<Result<_, _>>().map(Self)
    }
}

impl Config {
    /// Takes all sections out of `loader`, which gathers what is wrong, and installs the logger.
    pub fn read(loader: &mut Loader, args: &CommonArgs) -> Self {
        let logging: Logging = loader.section("logging", Strictness::Theirs);
        logging.install(args, loader);
        let section: Coordinator = loader.section("proxy_coordinator", Strictness::Theirs);
        let secrets: Secrets = loader.section("secrets", Strictness::Theirs);
        // Workers use it; here it only has to be readable.
        let _: PermitHash = loader.section("permit_hash", Strictness::Theirs);
        let redis: Redis = loader.section("redis", Strictness::Theirs);
        let server: Server = loader.section("server", Strictness::Ours);
        let bind = section
            .bind_addr
            .clone()
            .unwrap_or_else(|| HostPort::new("0.0.0.0", DEFAULT_PORT));
        let networks = section.metric_access_allowed_hosts.clone();
        let loopback = || Networks(parse_network("127.0.0.1").into_iter().collect());
        let password = redis.password.clone();
        check_server(&server, loader);
        Self {
            tls: section.tls(loader),
            api: ApiSettings {
                api_secret: secrets.require_api(loader),
                jwt: secrets.require_jwt(loader),
                advertise_url: section.advertise_url(&bind),
                allow_unauthorized_configure: section.allow_unauthorized_configure_request,
                metric_networks: networks.unwrap_or_else(loopback).0,
                body_limit: server.body_limit.0,
            },
            heartbeat_timeout: section.heartbeat_timeout(loader),
            database: database(loader),
            redis: redis.address(loader).map(|address| RedisSettings { address, password }),
            bind,
            server,
        }
    }
}

fn check_server(server: &Server, loader: &mut Loader) {
    let mut positive = |key: &str, good: bool| {
        if !good {
            loader.mistake(Mistake::new(format!("server.{key}"), "must be more than 0"));
        }
    };
    positive("body_limit", server.body_limit.0 > 0);
    positive("max_connections", server.max_connections > 0);
    positive("acknowledgement_timeout", !server.acknowledgement_timeout.0.is_zero());
}

impl Coordinator {
    fn tls(&self, loader: &mut Loader) -> Option<TlsFiles> {
        self.tls_listen.then(|| TlsFiles {
            cert: loader.require("proxy_coordinator", "tls_cert", self.tls_cert.clone()),
            key: loader.require("proxy_coordinator", "tls_privkey", self.tls_privkey.clone()),
        })
    }

    fn heartbeat_timeout(&self, loader: &mut Loader) -> Duration {
        let timeout = self.worker_heartbeat_timeout.unwrap_or(Seconds::from_secs(30)).0;
        if timeout < Duration::from_secs(1) {
            loader.mistake(Mistake::new(
                "proxy_coordinator.worker_heartbeat_timeout",
                "must be at least one second: workers send a heartbeat every ten",
            ));
        }
        timeout
    }

    /// The API's base URL: the port always printed, the host's own scheme kept if it has one
    /// (contract/rest-coordinator.md §7, `/status`).
    fn advertise_url(&self, bind: &HostPort) -> String {
        let address = self.advertised_addr.as_ref().unwrap_or(bind);
        if address.host.starts_with("http://") || address.host.starts_with("https://") {
            return format!("{}:{}", address.host, address.port);
        }
        let tls = self.tls_listen || self.tls_advertised;
        format!("{}://{address}", if tls { "https" } else { "http" })
    }
}

fn database(loader: &mut Loader) -> Database {
    let given = loader.has("db");
    let db: Db = loader.section("db", Strictness::Theirs);
    let kind = db.kind.as_deref().unwrap_or(if given { "postgresql" } else { "sqlite" });
    match kind {
        "sqlite" => Database::Sqlite(db.path.unwrap_or_else(default_path)),
        "postgresql" => Database::Postgres(Postgres {
            addr: db.addr.unwrap_or_else(|| {
                loader.mistake(Mistake::new("db.addr", "is missing: set it"));
                HostPort::new("localhost", 5432)
            }),
            name: loader.require("db", "name", db.name),
            user: loader.require("db", "user", db.user),
            password: loader.require("db", "password", db.password),
            connections: db.pool_size.unwrap_or(8).saturating_add(db.max_overflow.unwrap_or(64)),
        }),
        other => {
            let problem = format!("`{other}` is not one of sqlite, postgresql");
            loader.mistake(Mistake::new("db.type", problem));
            Database::Sqlite(default_path())
        }
    }
}

/// systemd's `StateDirectory`, the usual folder where it exists, or the working directory.
fn default_path() -> PathBuf {
    const NAME: &str = "coordinator.db";
    if let Some(folder) = std::env::var_os("STATE_DIRECTORY") {
        return PathBuf::from(folder).join(NAME);
    }
    let usual = Path::new("/var/lib/patchbay");
    if usual.is_dir() {
        return usual.join(NAME);
    }
    PathBuf::from("patchbay-coordinator.db")
}

#[cfg(test)]
mod tests {
    use patchbay_common::config::ConfigError;

    use super::*;
    use crate::samples::vectors;

    const SECRETS: &str = "[secrets]\napi_secret = \"a\"\njwt_secret = \"j\"\n";

    fn read(text: &str) -> (Config, Result<(), ConfigError>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let mut loader = Loader::open(Some(&path), []).unwrap();
        let config = Config::read(&mut loader, &CommonArgs::default());
        (config, loader.finish())
    }

    #[test]
    fn base_urls_are_the_incumbents() {
        for case in vectors()["advertise_base_url"].as_array().unwrap() {
            let address = |text: &str| {
                let (host, port) = text.rsplit_once(':').unwrap();
                HostPort::new(host, port.parse().unwrap())
            };
            let section = Coordinator {
                advertised_addr: case["advertised"].as_str().map(address),
                tls_listen: case["tls_listen"].as_bool().unwrap(),
                tls_advertised: case["tls_advertised"].as_bool().unwrap(),
                ..Coordinator::default()
            };
            let bind = address(case["bind"].as_str().unwrap());
            assert_eq!(section.advertise_url(&bind), case["url"]);
        }
    }

    #[test]
    fn secrets_are_all_that_must_be_set() {
        let (config, outcome) = read(SECRETS);
        outcome.unwrap();
        assert_eq!(config.bind, HostPort::new("0.0.0.0", 6030));
        assert!(matches!(config.database, Database::Sqlite(_)));
        assert!(config.redis.is_none());
        assert!(!config.api.allow_unauthorized_configure);
    }

    #[test]
    fn the_incumbents_file_loads() {
        let (config, outcome) = read(&format!(
            "{SECRETS}[db]\ntype = \"postgresql\"\naddr = {{ host = \"127.0.0.1\", port = 8100 }}\n\
             name = \"appproxy\"\nuser = \"u\"\npassword = \"p\"\npool_size = 8\n\
             [redis]\naddr = {{ host = \"127.0.0.1\", port = 8110 }}\n\
             [proxy_coordinator]\nbind_addr = {{ host = \"0.0.0.0\", port = 10200 }}\n\
             tls-listen = false\nallow_unauthorized_configure_request = true\naiomonitor_termui_port = 48500\n\
             metric_access_allowed_hosts = \"10.0.0.0/8\"\n\
             [permit_hash]\nsecret = \"s\"\ndigest_mod = \"SHA256\"\n[logging]\n[debug]\nenabled = true\n"
        ));
        outcome.unwrap();
        assert_eq!(config.bind.port, 10200);
        assert!(matches!(config.database, Database::Postgres(Postgres { connections: 72, .. })));
        assert!(config.redis.is_some() && config.api.allow_unauthorized_configure);
        assert_eq!(config.api.metric_networks, ["10.0.0.0/8".parse().unwrap()]);
    }

    #[test]
    fn mistakes_are_named_together() {
        let (_, outcome) = read(
            "[db]\ntype = \"mysql\"\n[server]\ngrace = 1\nbody_limit = 0\n\
             [proxy_coordinator]\ntls_listen = true\nmetric_access_allowed_hosts = [\"::1\", \"x\"]\n",
        );
        let text = outcome.unwrap_err().to_string();
        for key in ["db.type", "server.grace", "server.body_limit", "secrets.api_secret",
            "secrets.jwt_secret", "proxy_coordinator.tls_cert", "proxy_coordinator.tls_privkey",
            "proxy_coordinator.metric_access_allowed_hosts"] {
            assert!(text.contains(key), "{key} not in {text}");
        }
    }
}
