//! `[gateway]` as it stands in the file. Everything that is one of several has a name, so that a
//! mistake, a log line and a metric can say which one is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use patchbay_common::config::{ByteSize, Seconds, Secret};
use serde::{Deserialize, Deserializer};

/// `[gateway]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Gateway {
    pub(crate) bind: Texts,
    pub(crate) admin_bind: Option<String>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_privkey: Option<PathBuf>,
    pub(crate) trusted_proxies: Texts,
    pub(crate) timeout_status: Option<u16>,
    pub(crate) sticky_secret: Option<Secret>,
    pub(crate) pool_idle: Option<Seconds>,
    pub(crate) default_middleware: Vec<String>,
    pub(crate) routes: BTreeMap<String, Route>,
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) middleware: BTreeMap<String, Middleware>,
    pub(crate) docker: BTreeMap<String, Docker>,
    /// Names of routes and services that discovery found.
    #[serde(skip)]
    pub(crate) found: BTreeSet<String>,
}

/// `[gateway.docker.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Docker {
    pub(crate) endpoint: Option<String>,
    pub(crate) network: Option<String>,
    pub(crate) own_networks: Vec<String>,
    pub(crate) published_on: Option<String>,
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
}

/// One text or a list of texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Texts(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a text or a list of texts")]
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

/// `[gateway.routes.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Route {
    pub(crate) host: Texts,
    pub(crate) path: Option<String>,
    pub(crate) path_prefix: Option<String>,
    pub(crate) methods: Vec<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) middleware: Vec<String>,
    pub(crate) service: Option<String>,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) respond: Option<Respond>,
    pub(crate) strip_prefix: Option<String>,
    pub(crate) add_prefix: Option<String>,
    pub(crate) request_headers: BTreeMap<String, String>,
    pub(crate) response_headers: BTreeMap<String, String>,
    pub(crate) pass_host: Option<bool>,
    pub(crate) connect_timeout: Option<Seconds>,
    pub(crate) response_timeout: Option<Seconds>,
    pub(crate) idle_timeout: Option<Seconds>,
    pub(crate) sse_keepalive: Option<Seconds>,
    pub(crate) origins: Option<Vec<String>>,
    pub(crate) retries: Option<usize>,
    pub(crate) retry_status: Option<Vec<u16>>,
}

/// `redirect = { … }`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Redirect {
    pub(crate) to: String,
    pub(crate) status: Option<u16>,
}

/// `respond = { … }`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Respond {
    pub(crate) status: Option<u16>,
    pub(crate) body: String,
    pub(crate) content_type: Option<String>,
}

/// `[gateway.services.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) instances: Vec<Instance>,
    pub(crate) balance: Balance,
    pub(crate) hash_by: Option<String>,
    pub(crate) sticky: Option<Sticky>,
    pub(crate) health: Option<Health>,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) max_outstanding: Option<usize>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) retry_ratio: Option<f64>,
}

/// `"host:port"`, or a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Instance {
    pub(crate) address: String,
    pub(crate) weight: f64,
}

impl<'de> Deserialize<'de> for Instance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            address: String,
            #[serde(default = "one")]
            weight: f64,
        }
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "\"host:port\" or { address = \"host:port\", weight = 1 }"
        )]
        enum Either {
            Text(String),
            Table(Table),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Text(address) => Self {
                address,
                weight: 1.0,
            },
            Either::Table(Table { address, weight }) => Self { address, weight },
        })
    }
}

fn one() -> f64 {
    1.0
}

/// How one of several instances is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Balance {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// At random, by weight.
    Weighted,
    /// Of two the one with fewer requests under way.
    LeastOutstanding,
    /// The same for the same key (`hash_by`).
    Hash,
}

/// `sticky = { … }`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Sticky {
    pub(crate) cookie: Option<String>,
    pub(crate) lifetime: Option<Seconds>,
}

/// `health = { … }`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Health {
    pub(crate) path: Option<String>,
    pub(crate) interval: Option<Seconds>,
    pub(crate) timeout: Option<Seconds>,
    pub(crate) status: Option<u16>,
}

/// `breaker = { … }`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Breaker {
    pub(crate) consecutive: Option<u32>,
    pub(crate) ratio: Option<f64>,
    pub(crate) minimum: Option<u32>,
    pub(crate) open_for: Option<Seconds>,
    pub(crate) open_at_most: Option<Seconds>,
}

/// `[gateway.middleware.NAME.KIND]`: exactly one kind.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Middleware {
    pub(crate) jwt: Option<Jwt>,
    pub(crate) api_key: Option<ApiKey>,
    pub(crate) forward_auth: Option<ForwardAuth>,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) addresses: Option<Addresses>,
    pub(crate) cors: Option<Cors>,
    pub(crate) compress: Option<Compress>,
}

/// `jwt`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Jwt {
    pub(crate) algorithms: Vec<String>,
    pub(crate) secret: Option<Secret>,
    pub(crate) public_key: Option<PathBuf>,
    pub(crate) jwks_url: Option<String>,
    pub(crate) jwks_cooldown: Option<Seconds>,
    pub(crate) jwks_timeout: Option<Seconds>,
    pub(crate) header: Option<String>,
    pub(crate) cookie: Option<String>,
    pub(crate) issuer: Texts,
    pub(crate) audience: Texts,
    pub(crate) leeway: Option<Seconds>,
    pub(crate) permissions_claim: Option<String>,
    pub(crate) require_all: Vec<String>,
    pub(crate) require_any: Vec<String>,
    pub(crate) claim_headers: BTreeMap<String, String>,
    pub(crate) keep_token: bool,
}

/// `api_key`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ApiKey {
    pub(crate) header: Option<String>,
    pub(crate) keys: BTreeMap<String, Key>,
    pub(crate) require_all: Vec<String>,
    pub(crate) require_any: Vec<String>,
    pub(crate) subject_header: Option<String>,
}

/// `[gateway.middleware.NAME.api_key.keys.SUBJECT]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Key {
    pub(crate) sha256: String,
    pub(crate) permissions: Vec<String>,
}

/// `forward_auth`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ForwardAuth {
    pub(crate) url: String,
    pub(crate) timeout: Option<Seconds>,
    pub(crate) request_headers: Option<Vec<String>>,
    pub(crate) response_headers: Vec<String>,
    pub(crate) subject_header: Option<String>,
}

/// `rate_limit`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct RateLimit {
    pub(crate) rate: Option<f64>,
    pub(crate) per: Option<Seconds>,
    pub(crate) burst: Option<u32>,
    pub(crate) key: Option<String>,
    pub(crate) shared: bool,
}

/// `addresses`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Addresses {
    pub(crate) allow: Texts,
    pub(crate) deny: Texts,
}

/// `cors`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Cors {
    pub(crate) origins: Vec<String>,
    pub(crate) methods: Vec<String>,
    pub(crate) headers: Vec<String>,
    pub(crate) expose: Vec<String>,
    pub(crate) credentials: bool,
    pub(crate) max_age: Option<Seconds>,
}

/// `compress`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Compress {
    pub(crate) codings: Option<Vec<String>>,
    pub(crate) types: Option<Vec<String>>,
    pub(crate) minimum: Option<ByteSize>,
    pub(crate) event_streams: bool,
}
