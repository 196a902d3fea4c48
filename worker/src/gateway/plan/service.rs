//! A service: its instances, the choice among them, and what is done when they fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patchbay_common::circuit::Protocol;
use patchbay_common::id::SessionId;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::Flaw;
use crate::gateway::breaker::{BreakerSettings, CircuitBreaker};
use crate::gateway::chain::Ledger;
use crate::gateway::config::sections;
use crate::gateway::sticky::Sticky;
use crate::upstream::{Backend, Breaker, Check, Policy, Settings, UpstreamSet};

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
    /// What its instances speak.
    pub protocol: Protocol,
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
    section.check(&mut |key, problem| flaws.push((format!("services.{name}.{key}"), problem)));
    let (backends, breakers) = instances(section, known);
    let rules = rules(section, ground);
    let check = section.health.as_ref().map(check);
    let upstreams = UpstreamSet::new(
        &backends,
        check,
        &rules,
        known.map(|known| &known.upstreams),
    );
    let hash_by = hash_by(section);
    let sticky = section.sticky.as_ref().map(|section| {
        let cookie = section
            .cookie
            .clone()
            .unwrap_or_else(|| format!("patchbay_{name}"));
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
        protocol: match section.protocol {
            sections::Protocol::Http => Protocol::Http,
            sections::Protocol::H2c => Protocol::H2,
            sections::Protocol::Grpc => Protocol::Grpc,
        },
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
) -> (Vec<Backend>, BTreeMap<String, Arc<CircuitBreaker>>) {
    let breaker = section.breaker.as_ref().map(breaker);
    let mut breakers = BTreeMap::new();
    let mut backends: Vec<Backend> = Vec::new();
    for instance in &section.instances {
        // One that cannot be has been told of.
        let Some(place) = instance.place() else {
            continue;
        };
        let label = format!("{}:{}", place.host, place.port);
        let before = known.and_then(|known| known.breakers.get(&label));
        let own = match before {
            Some(before) => {
                before.set(breaker.clone());
                Arc::clone(before)
            }
            None => Arc::new(CircuitBreaker::new(&label, breaker.clone())),
        };
        backends.push(Backend {
            host: place.host,
            port: place.port,
            weight: instance.weight,
            session: SessionId::from(uuid::Uuid::nil()),
            route: None,
            breaker: Some(Arc::clone(&own) as Arc<dyn Breaker>),
        });
        breakers.insert(label, own);
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

fn hash_by(section: &sections::Service) -> HashBy {
    match section
        .hash_by
        .as_deref()
        .and_then(|text| text.split_once(':'))
    {
        Some(("header", name)) => HashBy::Header(name.to_ascii_lowercase()),
        Some(("cookie", name)) => HashBy::Cookie(name.to_owned()),
        _ => HashBy::Address,
    }
}

fn check(section: &sections::Health) -> Check {
    let interval = section.interval.map_or(USUAL_INTERVAL, |time| time.0);
    let patience = section.timeout.map_or(USUAL_PATIENCE, |time| time.0);
    match &section.path {
        None => Check::Tcp { interval, patience },
        Some(path) => Check::Http {
            interval,
            patience,
            path: path.clone(),
            status: section.status.unwrap_or(200),
            failures: BAD_CHECKS,
            grace: Duration::ZERO,
        },
    }
}

fn breaker(section: &sections::Breaker) -> BreakerSettings {
    use sections::Breaker as Usual;
    BreakerSettings {
        consecutive: section.consecutive.unwrap_or(Usual::CONSECUTIVE),
        ratio: section.ratio.unwrap_or(Usual::RATIO),
        minimum: section.minimum.unwrap_or(Usual::MINIMUM),
        open_for: section.open_for.unwrap_or(Usual::OPEN_FOR).0,
        open_at_most: section.open_at_most.unwrap_or(Usual::OPEN_AT_MOST).0,
    }
}
