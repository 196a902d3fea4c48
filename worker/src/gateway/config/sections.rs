//! `[gateway]` as it stands in the file. Everything that is one of several has a name, so that a
//! mistake, a log line and a metric can say which one is meant.

use std::collections::BTreeMap;
use std::path::PathBuf;

use patchbay_common::config::{Seconds, Secret};
use serde::{Deserialize, Deserializer};

/// `[gateway]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Gateway {
    pub(super) bind: Texts,
    pub(super) admin_bind: Option<String>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_privkey: Option<PathBuf>,
    pub(super) trusted_proxies: Texts,
    pub(super) timeout_status: Option<u16>,
    pub(super) sticky_secret: Option<Secret>,
    pub(super) default_middleware: Vec<String>,
    pub(super) routes: BTreeMap<String, Route>,
    pub(super) services: BTreeMap<String, Service>,
    pub(super) middleware: BTreeMap<String, Middleware>,
}

/// One text or a list of texts.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts(pub(super) Vec<String>);

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
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Route {
    pub(super) host: Texts,
    pub(super) path: Option<String>,
    pub(super) path_prefix: Option<String>,
    pub(super) methods: Vec<String>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) middleware: Vec<String>,
    pub(super) service: Option<String>,
    pub(super) redirect: Option<Redirect>,
    pub(super) respond: Option<Respond>,
    pub(super) strip_prefix: Option<String>,
    pub(super) add_prefix: Option<String>,
    pub(super) request_headers: BTreeMap<String, String>,
    pub(super) response_headers: BTreeMap<String, String>,
    pub(super) pass_host: Option<bool>,
    pub(super) connect_timeout: Option<Seconds>,
    pub(super) response_timeout: Option<Seconds>,
    pub(super) idle_timeout: Option<Seconds>,
    pub(super) retries: Option<u32>,
}

/// `redirect = { … }`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Redirect {
    pub(super) to: String,
    pub(super) status: Option<u16>,
}

/// `respond = { … }`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Respond {
    pub(super) status: Option<u16>,
    pub(super) body: String,
    pub(super) content_type: Option<String>,
}

/// `[gateway.services.NAME]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    pub(super) instances: Vec<Instance>,
    pub(super) balance: Balance,
    pub(super) hash_by: Option<String>,
    pub(super) sticky: Option<Sticky>,
    pub(super) health: Option<Health>,
    pub(super) breaker: Option<Breaker>,
}

/// `"host:port"`, or a table.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) address: String,
    pub(super) weight: f64,
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
pub enum Balance {
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
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Sticky {
    pub(super) cookie: Option<String>,
    pub(super) lifetime: Option<Seconds>,
}

/// `health = { … }`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    pub(super) path: Option<String>,
    pub(super) interval: Option<Seconds>,
    pub(super) timeout: Option<Seconds>,
}

/// `breaker = { … }`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Breaker {
    pub(super) consecutive: Option<u32>,
    pub(super) ratio: Option<f64>,
    pub(super) minimum: Option<u32>,
    pub(super) open_for: Option<Seconds>,
    pub(super) open_at_most: Option<Seconds>,
}

/// `[gateway.middleware.NAME.KIND]`: exactly one kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Middleware {
    pub(super) jwt: Option<Jwt>,
    pub(super) api_key: Option<ApiKey>,
    pub(super) forward_auth: Option<ForwardAuth>,
    pub(super) rate_limit: Option<RateLimit>,
    pub(super) addresses: Option<Addresses>,
    pub(super) cors: Option<Cors>,
}

/// `jwt`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Jwt {
    pub(super) algorithms: Vec<String>,
    pub(super) secret: Option<Secret>,
    pub(super) public_key: Option<PathBuf>,
    pub(super) jwks_url: Option<String>,
    pub(super) jwks_cooldown: Option<Seconds>,
    pub(super) jwks_timeout: Option<Seconds>,
    pub(super) header: Option<String>,
    pub(super) cookie: Option<String>,
    pub(super) issuer: Texts,
    pub(super) audience: Texts,
    pub(super) leeway: Option<Seconds>,
    pub(super) permissions_claim: Option<String>,
    pub(super) require_all: Vec<String>,
    pub(super) require_any: Vec<String>,
    pub(super) claim_headers: BTreeMap<String, String>,
    pub(super) keep_token: bool,
}

/// `api_key`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ApiKey {
    pub(super) header: Option<String>,
    pub(super) query: Option<String>,
    pub(super) keys: BTreeMap<String, Key>,
    pub(super) require_all: Vec<String>,
    pub(super) require_any: Vec<String>,
    pub(super) subject_header: Option<String>,
}

/// `[gateway.middleware.NAME.api_key.keys.SUBJECT]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Key {
    pub(super) sha256: String,
    pub(super) permissions: Vec<String>,
}

/// `forward_auth`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ForwardAuth {
    pub(super) url: String,
    pub(super) timeout: Option<Seconds>,
    pub(super) request_headers: Option<Vec<String>>,
    pub(super) response_headers: Vec<String>,
    pub(super) subject_header: Option<String>,
}

/// `rate_limit`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RateLimit {
    pub(super) rate: Option<f64>,
    pub(super) per: Option<Seconds>,
    pub(super) burst: Option<u32>,
    pub(super) key: Option<String>,
}

/// `addresses`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Addresses {
    pub(super) allow: Texts,
    pub(super) deny: Texts,
}

/// `cors`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Cors {
    pub(super) origins: Vec<String>,
    pub(super) methods: Vec<String>,
    pub(super) headers: Vec<String>,
    pub(super) expose: Vec<String>,
    pub(super) credentials: bool,
    pub(super) max_age: Option<Seconds>,
}
