//! `[gateway]` as it stands in the file. Everything that is one of several has a name, so that a
//! mistake, a log line and a metric can say which one is meant.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use patchbay_common::config::{ByteSize, Seconds, Secret};
use patchbay_common::gateway::Origin;
use patchbay_discovery::DockerSection;
use serde::Deserialize;

pub(crate) use patchbay_common::gateway::{
    Balance, Breaker, Health, Protocol, Route, Service, Texts,
};

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
    pub(crate) coordinator: Option<String>,
    pub(crate) follow_coordinator: Option<bool>,
    pub(crate) pool_idle: Option<Seconds>,
    pub(crate) default_middleware: Vec<String>,
    pub(crate) routes: BTreeMap<String, Route>,
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) middleware: BTreeMap<String, Middleware>,
    pub(crate) docker: BTreeMap<String, DockerSection>,
    /// A coordinator's services are served too.
    #[serde(skip)]
    pub(crate) follows: bool,
    /// What others have said beside the file.
    #[serde(skip)]
    pub(crate) guests: Guests,
}

/// Services and routes that do not stand in the file, and who says that there are such.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Guests {
    pub(crate) services: BTreeMap<String, Guest>,
    pub(crate) routes: BTreeMap<String, Guest>,
}

/// Who says so. The less gives way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Guest {
    /// The coordinator's list.
    Coordinator(Origin),
    /// The labels of an engine's containers, as this worker sees them.
    Labels(String),
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(origin) => write!(f, "coordinator, {origin}"),
            Self::Labels(engine) => write!(f, "docker {engine}"),
        }
    }
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
