//! A service: where it is, how one of its instances is chosen, what is done when they fail.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{MAX_INSTANCES, Note, is_default};
use crate::config::{HostPort, Seconds};
use crate::tunnel::TunnelId;

/// What the address of an instance begins with that an agent lends.
const TUNNEL: &str = "tunnel://";

/// `[gateway.services.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Where it is.
    #[serde(skip_serializing_if = "is_default")]
    pub instances: Vec<Instance>,
    /// What they speak.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: Protocol,
    /// How one of them is chosen.
    #[serde(skip_serializing_if = "is_default")]
    pub balance: Balance,
    /// With [`Balance::Hash`]: `address`, `header:NAME` or `cookie:NAME`.
    #[serde(skip_serializing_if = "is_default")]
    pub hash_by: Option<String>,
    /// Keeps clients at their instance.
    #[serde(skip_serializing_if = "is_default")]
    pub sticky: Option<Sticky>,
    /// Asks instances how they are.
    #[serde(skip_serializing_if = "is_default")]
    pub health: Option<Health>,
    /// Leaves instances alone that fail.
    #[serde(skip_serializing_if = "is_default")]
    pub breaker: Option<Breaker>,
    /// Most requests under way at one instance.
    #[serde(skip_serializing_if = "is_default")]
    pub max_outstanding: Option<usize>,
    /// Most connections that carry requests at one instance.
    #[serde(skip_serializing_if = "is_default")]
    pub max_connections: Option<usize>,
    /// Retries granted for each request.
    #[serde(skip_serializing_if = "is_default")]
    pub retry_ratio: Option<f64>,
}

/// `"host:port"`, or a table with a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Host and port.
    pub address: String,
    /// Its share of the requests.
    pub weight: f64,
}

impl Instance {
    /// Host and port; a scheme and a last slash are passed over. A tunnel has no port; it gets one
    /// all the same, since 0 is that of a tunnel asked for by its own name.
    pub fn place(&self) -> Option<HostPort> {
        if let Some(id) = self.address.strip_prefix(TUNNEL) {
            let known: Option<TunnelId> = id.parse().ok();
            return known.map(|_| HostPort::new(self.address.as_str(), 80));
        }
        let bare = self.address.strip_prefix("http://");
        let bare = bare.unwrap_or(&self.address).trim_end_matches('/');
        HostPort::parse(bare)
            .filter(|place| place.port != 0 && !place.host.contains(['/', '@', '?', '#', ' ']))
    }
}

impl Serialize for Instance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Table<'a> {
            address: &'a str,
            weight: f64,
        }
        let Self { address, weight } = self;
        if (*weight - one()).abs() < f64::EPSILON {
            return serializer.serialize_str(address);
        }
        let weight = *weight;
        Table { address, weight }.serialize(serializer)
    }
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
                weight: one(),
            },
            Either::Table(Table { address, weight }) => Self { address, weight },
        })
    }
}

fn one() -> f64 {
    1.0
}

/// What instances speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, WebSockets included.
    #[default]
    Http,
    /// HTTP/2 in plaintext, which they have to know (RFC 9113 §3.3).
    H2c,
    /// The same, for gRPC.
    Grpc,
}

/// How one of several instances is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sticky {
    /// Name of the cookie.
    #[serde(skip_serializing_if = "is_default")]
    pub cookie: Option<String>,
    /// How long browsers keep it.
    #[serde(skip_serializing_if = "is_default")]
    pub lifetime: Option<Seconds>,
}

/// `health = { … }`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Asked for; without it only a connection is tried.
    #[serde(skip_serializing_if = "is_default")]
    pub path: Option<String>,
    /// Between checks.
    #[serde(skip_serializing_if = "is_default")]
    pub interval: Option<Seconds>,
    /// Patience with one.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: Option<Seconds>,
    /// The answer of one that is well.
    #[serde(skip_serializing_if = "is_default")]
    pub status: Option<u16>,
}

/// `breaker = { … }`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Breaker {
    /// Faults in a row that open it.
    #[serde(skip_serializing_if = "is_default")]
    pub consecutive: Option<u32>,
    /// Share of faults that opens it.
    #[serde(skip_serializing_if = "is_default")]
    pub ratio: Option<f64>,
    /// Least answers the share is taken of.
    #[serde(skip_serializing_if = "is_default")]
    pub minimum: Option<u32>,
    /// How long it is open the first time.
    #[serde(skip_serializing_if = "is_default")]
    pub open_for: Option<Seconds>,
    /// How long at most.
    #[serde(skip_serializing_if = "is_default")]
    pub open_at_most: Option<Seconds>,
}

/// The breaker's settings where nothing is said: faults in a row, share, least answers, and how
/// long it is open, at first and at most.
impl Breaker {
    /// Faults in a row.
    pub const CONSECUTIVE: u32 = 5;
    /// Share of faults.
    pub const RATIO: f64 = 0.5;
    /// Least answers.
    pub const MINIMUM: u32 = 20;
    /// Open at first.
    pub const OPEN_FOR: Seconds = Seconds::from_secs(5);
    /// Open at most.
    pub const OPEN_AT_MOST: Seconds = Seconds::from_secs(60);
}

impl Service {
    /// Notes everything that cannot be.
    pub fn check(&self, note: &mut Note<'_>) {
        self.check_instances(note);
        if let Some(text) = &self.hash_by {
            if self.balance != Balance::Hash {
                note(
                    "hash_by",
                    "means something only with balance = \"hash\"".into(),
                );
            }
            let named = match text.split_once(':') {
                None => text == "address",
                Some(("header" | "cookie", name)) => is_token(name),
                Some(_) => false,
            };
            if !named {
                let problem = format!("`{text}`: write address, header:NAME or cookie:NAME");
                note("hash_by", problem);
            }
        }
        let cookie = self
            .sticky
            .as_ref()
            .and_then(|sticky| sticky.cookie.as_ref());
        if let Some(cookie) = cookie.filter(|cookie| !is_token(cookie)) {
            note(
                "sticky.cookie",
                format!("`{cookie}` is not a cookie's name"),
            );
        }
        if let Some(health) = &self.health {
            health.check(note);
            if health.path.is_some() && self.protocol != Protocol::Http {
                let problem = "is asked for by HTTP/1.1: leave it out, then a connection is tried";
                note("health.path", problem.into());
            }
        }
        if let Some(breaker) = &self.breaker {
            breaker.check(note);
        }
    }

    fn check_instances(&self, note: &mut Note<'_>) {
        if self.instances.len() > MAX_INSTANCES {
            let count = self.instances.len();
            note(
                "instances",
                format!("{count} are too many: {MAX_INSTANCES} is the most"),
            );
        }
        let mut places = std::collections::BTreeSet::new();
        for instance in &self.instances {
            let shown = &instance.address;
            let Some(place) = instance.place() else {
                let problem =
                    format!("`{shown}` is not an address: write host:port or tunnel://ID");
                note("instances", problem);
                continue;
            };
            if !instance.weight.is_finite() || instance.weight < 0.0 {
                let problem = format!("`{shown}`: the weight must not be negative");
                note("instances", problem);
            }
            if !places.insert(place.to_string()) {
                note("instances", format!("`{shown}` is there twice"));
            }
        }
    }
}

impl Health {
    fn check(&self, note: &mut Note<'_>) {
        let zero = |time: Option<Seconds>| time.is_some_and(|time| time.0.is_zero());
        if zero(self.interval) || zero(self.timeout) {
            note("health", "interval and timeout must be more than 0".into());
        }
        if let Some(path) = &self.path
            && (!path.starts_with('/') || path.contains([' ', '#']))
        {
            note("health.path", format!("`{path}` must begin with a slash"));
        }
    }
}

impl Breaker {
    fn check(&self, note: &mut Note<'_>) {
        let ratio = self.ratio.unwrap_or(Self::RATIO);
        if !(ratio > 0.0 && ratio <= 1.0) {
            note("breaker.ratio", "must be more than 0 and at most 1".into());
        }
        if self.consecutive == Some(0) || self.minimum == Some(0) {
            let problem = "consecutive and minimum must be at least 1";
            note("breaker", problem.into());
        }
        let open_for = self.open_for.unwrap_or(Self::OPEN_FOR).0;
        if open_for.is_zero() || open_for > self.open_at_most.unwrap_or(Self::OPEN_AT_MOST).0 {
            note(
                "breaker.open_for",
                "must be more than 0 and not above open_at_most".into(),
            );
        }
    }
}

/// RFC 9110 §5.6.2, which is also what cookies may be called.
fn is_token(text: &str) -> bool {
    http::HeaderName::from_bytes(text.as_bytes()).is_ok()
}
