//! A service: its instances, the choice among them, and what is done when they fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patchbay_common::config::HostPort;
use patchbay_common::id::SessionId;
use patchbay_common::tunnel::TunnelId;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::Flaw;
use crate::gateway::breaker::{BreakerSettings, CircuitBreaker};
use crate::gateway::chain::Ledger;
use crate::gateway::config::sections;
use crate::gateway::sticky::Sticky;
use crate::upstream::{Backend, Breaker, Check, Policy, Settings, TUNNEL, UpstreamSet};

/// Connections that carry requests at one instance.
const USUAL_CONNECTIONS: usize = 100;
/// Between health checks.
const USUAL_INTERVAL: Duration = Duration::from_secs(5);
/// Patience of one.
const USUAL_PATIENCE: Duration = Duration::from_secs(2);
/// Bad checks in a row that take an instance out of service.
const BAD_CHECKS: u32 = 2;

/// One service in use.
#[derive(Debug)]
pub struct LiveService {
    /// Its name.
    pub name: String,
    /// Its instances.
    pub upstreams: UpstreamSet,
    /// Cancelled when what it carries has to end.
    pub closed: CancellationToken,
    /// What tells one client from another, for the choice.
    pub hash_by: HashBy,
    /// Keeps clients at their instance.
    pub sticky: Option<Sticky>,
    breakers: BTreeMap<String, Arc<CircuitBreaker>>,
    settings: sections::Service,
    /// Digest of the key that signs sticky cookies.
    sticky_key: [u8; 32],
}

/// What a client's requests have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashBy {
    /// Their address.
    #[default]
    Address,
    /// A header.
    Header(String),
    /// A cookie.
    Cookie(String),
}

/// What services are put together from, beside their sections.
pub struct Ground<'a> {
    /// Rules of the choice, where a service says nothing else.
    pub rules: &'a Settings,
    /// Signs sticky cookies.
    pub sticky_key: &'a [u8],
    /// Clients come by TLS.
    pub tls: bool,
    /// Where limits are shared, if they can be.
    pub ledger: Option<Arc<dyn Ledger>>,
}

impl LiveService {
    /// Breakers by instance, and their state.
    pub fn breakers(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let all = self.breakers.iter();
        all.map(|(label, breaker)| (label.as_str(), breaker.state()))
    }
}

/// The service; `known` is the one of this name before.
pub(super) fn build(
    name: &str,
    section: &sections::Service,
    ground: &Ground<'_>,
    known: Option<&Arc<LiveService>>,
    flaws: &mut Vec<Flaw>,
) -> Arc<LiveService> {
    let sticky_key: [u8; 32] = Sha256::digest(ground.sticky_key).into();
    if let Some(same) =
        known.filter(|known| known.settings == *section && known.sticky_key == sticky_key)
    {
        return Arc::clone(same);
    }
    let mut note = |key: &str, problem: String| {
        flaws.push((format!("services.{name}.{key}"), problem));
    };
    let (backends, breakers) = instances(section, known, &mut note);
    let rules = rules(section, ground);
    let check = section
        .health
        .as_ref()
        .and_then(|section| check(section, &mut note));
    let upstreams = UpstreamSet::new(
        &backends,
        check,
        &rules,
        known.map(|known| &known.upstreams),
    );
    let hash_by = hash_by(section, &mut note);
    let sticky = section.sticky.as_ref().map(|section| {
        let cookie = section
            .cookie
            .clone()
            .unwrap_or_else(|| format!("patchbay_{name}"));
        if !is_token(&cookie) {
            note(
                "sticky.cookie",
                format!("`{cookie}` is not a cookie's name"),
            );
        }
        let lifetime = section.lifetime.map(|time| time.0.as_secs());
        Sticky::new(
            (ground.sticky_key, name),
            cookie,
            lifetime,
            ground.tls,
            &upstreams,
        )
    });
    Arc::new(LiveService {
        name: name.to_owned(),
        upstreams,
        closed: known.map_or_else(CancellationToken::new, |known| known.closed.clone()),
        hash_by,
        sticky,
        breakers,
        settings: section.clone(),
        sticky_key,
    })
}

/// The instances, each with its breaker.
fn instances(
    section: &sections::Service,
    known: Option<&Arc<LiveService>>,
    note: &mut dyn FnMut(&str, String),
) -> (Vec<Backend>, BTreeMap<String, Arc<CircuitBreaker>>) {
    let breaker = section
        .breaker
        .as_ref()
        .map(|section| breaker(section, note));
    let mut breakers = BTreeMap::new();
    let mut backends: Vec<Backend> = Vec::new();
    for instance in &section.instances {
        let Some(mut backend) = backend(instance, note) else {
            continue;
        };
        let label = format!("{}:{}", backend.host, backend.port);
        let before = known.and_then(|known| known.breakers.get(&label));
        let own = match before {
            Some(before) => {
                before.set(breaker.clone());
                Arc::clone(before)
            }
            None => Arc::new(CircuitBreaker::new(&label, breaker.clone())),
        };
        backend.breaker = Some(Arc::clone(&own) as Arc<dyn Breaker>);
        if breakers.insert(label, own).is_some() {
            note(
                "instances",
                format!("`{}` is there twice", instance.address),
            );
        }
        backends.push(backend);
    }
    (backends, breakers)
}

fn rules(section: &sections::Service, ground: &Ground<'_>) -> Arc<Settings> {
    Arc::new(Settings {
        policy: policy(section),
        max_outstanding: section
            .max_outstanding
            .unwrap_or(ground.rules.max_outstanding),
        max_connections: section.max_connections.unwrap_or(USUAL_CONNECTIONS),
        retry_ratio: section.retry_ratio.unwrap_or(ground.rules.retry_ratio),
        ..ground.rules.clone()
    })
}

fn backend(instance: &sections::Instance, note: &mut dyn FnMut(&str, String)) -> Option<Backend> {
    let shown = &instance.address;
    let Some((host, port)) = place(shown) else {
        note(
            "instances",
            format!("`{shown}` is not an address: write host:port or tunnel://ID"),
        );
        return None;
    };
    if !instance.weight.is_finite() || instance.weight < 0.0 {
        note(
            "instances",
            format!("`{shown}`: the weight must not be negative"),
        );
        return None;
    }
    Some(Backend {
        host,
        port,
        weight: instance.weight,
        session: SessionId::from(uuid::Uuid::nil()),
        route: None,
        breaker: None,
    })
}

/// Host and port. A tunnel has no port; it gets one all the same, since 0 is that of a tunnel asked
/// for by its own name, which is never out of service.
fn place(text: &str) -> Option<(String, u16)> {
    match text.strip_prefix(TUNNEL) {
        Some(id) => id
            .parse::<TunnelId>()
            .is_ok()
            .then(|| (text.to_owned(), 80)),
        None => address(text).map(|address| (address.host, address.port)),
    }
}

fn address(text: &str) -> Option<HostPort> {
    let bare = text.strip_prefix("http://").unwrap_or(text);
    HostPort::parse(bare.trim_end_matches('/'))
        .filter(|address| address.port != 0 && !address.host.contains(['/', '@', '?', '#', ' ']))
}

fn policy(section: &sections::Service) -> Policy {
    let mut weights = section.instances.iter().map(|instance| instance.weight);
    let first = weights.next();
    let equal = weights.all(|weight| Some(weight) == first);
    match section.balance {
        sections::Balance::RoundRobin if equal => Policy::RoundRobin,
        sections::Balance::RoundRobin | sections::Balance::Weighted => Policy::Weighted,
        sections::Balance::LeastOutstanding => Policy::LeastOutstanding,
        sections::Balance::Hash => Policy::ConsistentHash,
    }
}

fn hash_by(section: &sections::Service, note: &mut dyn FnMut(&str, String)) -> HashBy {
    let Some(text) = section.hash_by.as_deref() else {
        return HashBy::Address;
    };
    if section.balance != sections::Balance::Hash {
        note(
            "hash_by",
            "means something only with balance = \"hash\"".into(),
        );
    }
    match text.split_once(':') {
        None if text == "address" => HashBy::Address,
        Some(("header", name)) if is_token(name) => HashBy::Header(name.to_ascii_lowercase()),
        Some(("cookie", name)) if is_token(name) => HashBy::Cookie(name.to_owned()),
        _ => {
            note(
                "hash_by",
                format!("`{text}`: write address, header:NAME or cookie:NAME"),
            );
            HashBy::Address
        }
    }
}

fn check(section: &sections::Health, note: &mut dyn FnMut(&str, String)) -> Option<Check> {
    let interval = section.interval.map_or(USUAL_INTERVAL, |time| time.0);
    let patience = section.timeout.map_or(USUAL_PATIENCE, |time| time.0);
    if interval.is_zero() || patience.is_zero() {
        note("health", "interval and timeout must be more than 0".into());
        return None;
    }
    let Some(path) = &section.path else {
        return Some(Check::Tcp { interval, patience });
    };
    if !path.starts_with('/') || path.contains([' ', '#']) {
        note("health.path", format!("`{path}` must begin with a slash"));
        return None;
    }
    Some(Check::Http {
        interval,
        patience,
        path: path.clone(),
        status: section.status.unwrap_or(200),
        failures: BAD_CHECKS,
        grace: Duration::ZERO,
    })
}

fn breaker(section: &sections::Breaker, note: &mut dyn FnMut(&str, String)) -> BreakerSettings {
    let usual = BreakerSettings::default();
    let settings = BreakerSettings {
        consecutive: section.consecutive.unwrap_or(usual.consecutive),
        ratio: section.ratio.unwrap_or(usual.ratio),
        minimum: section.minimum.unwrap_or(usual.minimum),
        open_for: section.open_for.map_or(usual.open_for, |time| time.0),
        open_at_most: section
            .open_at_most
            .map_or(usual.open_at_most, |time| time.0),
    };
    if !(settings.ratio > 0.0 && settings.ratio <= 1.0) {
        note("breaker.ratio", "must be more than 0 and at most 1".into());
    }
    if settings.consecutive == 0 || settings.minimum == 0 {
        note(
            "breaker",
            "consecutive and minimum must be at least 1".into(),
        );
    }
    if settings.open_for.is_zero() || settings.open_for > settings.open_at_most {
        note(
            "breaker.open_for",
            "must be more than 0 and not above open_at_most".into(),
        );
    }
    settings
}

/// RFC 9110 §5.6.2, which is also what cookies may be called.
fn is_token(text: &str) -> bool {
    http::HeaderName::from_bytes(text.as_bytes()).is_ok()
}
