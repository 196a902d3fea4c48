//! `[gateway]`: read as it stands (`sections`), checked as a whole by building what it leads to.
//! `config` reads it with everything else; a reload reads it again.

pub(crate) mod sections;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use ipnet::IpNet;
use patchbay_common::client_ips::parse_network;
use patchbay_common::config::{HostPort, Loader, Mistake, Seconds, Strictness};

use super::chain::{Ledger, NoLedger};
use super::plan::{Ground, Plan};
use crate::tunnel;
use crate::upstream::Settings;
use patchbay_listen::tls;

/// Its name in the file.
pub const SECTION: &str = "gateway";
/// The section of circuits, whose coordinator is the gateway's too.
const CIRCUITS: &str = "proxy_worker";
/// How long idle connections to instances are kept.
const USUAL_POOL_IDLE: Seconds = Seconds::from_secs(90);
/// Where shared limits are kept.
const REDIS: &str = "redis";
/// Where it listens if it does not say.
const USUAL_BIND: &str = "0.0.0.0:8080";
/// Where the worker's own API listens where there is nothing but a gateway.
const USUAL_ADMIN: &str = "127.0.0.1:10201";
/// What a client is told when a service does not answer in time.
const USUAL_TIMEOUT_STATUS: u16 = 408;

/// The gateway as the operator wants it.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Where it listens.
    pub binds: Vec<SocketAddr>,
    /// Where the API listens if the worker has no circuits.
    pub admin_bind: SocketAddr,
    /// TLS of its listeners.
    pub tls: Option<tls::Plan>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Status for a service that does not answer in time: 408 or 504.
    pub timeout_status: u16,
    /// The coordinator whose services are served, where the worker has no circuits: base URL
    /// without a trailing slash.
    pub coordinator: Option<String>,
    /// Whether a coordinator's services are served beside those of the file.
    pub follows: bool,
    /// How long an idle connection to an instance is kept.
    pub pool_idle: Seconds,
    pub(crate) sections: sections::Gateway,
}

impl GatewayConfig {
    /// Whether there is a gateway; agents need one to register at.
    pub fn is_in(loader: &Loader) -> bool {
        loader.has(SECTION) || loader.has(tunnel::SECTION)
    }

    /// Takes the section, if there is one. What is wrong is noted in `loader`.
    pub fn read(loader: &mut Loader) -> Option<Self> {
        if !Self::is_in(loader) {
            return None;
        }
        let mut section: sections::Gateway = loader.section(SECTION, Strictness::Ours);
        let coordinator = coordinator(loader, section.coordinator.as_deref());
        let wished = section.follow_coordinator.unwrap_or(true);
        section.follows = wished && (coordinator.is_some() || loader.has(CIRCUITS));
        let mut awaiting = section.clone();
        awaiting.await_services();
        let ground = Ground {
            rules: &Settings::default(),
            sticky_key: &[],
            tls: false,
            ledger: loader
                .has(REDIS)
                .then(|| Arc::new(NoLedger) as Arc<dyn Ledger>),
        };
        let (_, mistakes) = Plan::build(&awaiting, &ground, None);
        for (key, problem) in mistakes {
            loader.mistake(Mistake::new(format!("{SECTION}.{key}"), problem));
        }
        for (name, docker) in &section.docker {
            if let Err(problem) = docker.watcher(name) {
                let key = format!("{SECTION}.docker.{name}");
                loader.mistake(Mistake::new(key, problem));
            }
        }
        let usual = [USUAL_BIND.to_owned()];
        let binds = match section.bind.0.as_slice() {
            [] => &usual,
            given => given,
        };
        let admin = section.admin_bind.as_deref().unwrap_or(USUAL_ADMIN);
        Some(Self {
            binds: binds
                .iter()
                .map(|text| address(loader, "bind", text))
                .collect(),
            admin_bind: address(loader, "admin_bind", admin),
            tls: tls(loader, &section),
            trusted_proxies: networks(loader, &section.trusted_proxies.0),
            timeout_status: timeout_status(loader, section.timeout_status),
            follows: section.follows,
            coordinator,
            pool_idle: section.pool_idle.unwrap_or(USUAL_POOL_IDLE),
            sections: section,
        })
    }

    /// Keys that differ in `other` and cannot change while the process runs.
    pub fn fixed_keys_changed(&self, other: &Self) -> Vec<&'static str> {
        let keys = [
            ("coordinator", self.coordinator != other.coordinator),
            ("follow_coordinator", self.follows != other.follows),
            ("bind", self.binds != other.binds),
            ("admin_bind", self.admin_bind != other.admin_bind),
            ("tls_cert", self.tls != other.tls),
            ("pool_idle", self.pool_idle != other.pool_idle),
            (
                "trusted_proxies",
                self.trusted_proxies != other.trusted_proxies,
            ),
        ];
        let changed = keys.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(key, _)| key).collect()
    }
}

fn coordinator(loader: &mut Loader, given: Option<&str>) -> Option<String> {
    let url = given?.trim_end_matches('/');
    if loader.has(CIRCUITS) {
        let problem = "stands beside [proxy_worker]: its coordinator_endpoint tells";
        loader.mistake(Mistake::new("gateway.coordinator", problem));
    } else if !url.starts_with("http://") && !url.starts_with("https://") {
        let problem = format!("`{url}` is not a URL: write http://host:6030");
        loader.mistake(Mistake::new("gateway.coordinator", problem));
    }
    Some(url.to_owned())
}

fn timeout_status(loader: &mut Loader, given: Option<u16>) -> u16 {
    match given {
        None => USUAL_TIMEOUT_STATUS,
        Some(status @ (408 | 504)) => status,
        Some(other) => {
            let problem = format!("{other} is not offered: write 408 or 504");
            loader.mistake(Mistake::new("gateway.timeout_status", problem));
            USUAL_TIMEOUT_STATUS
        }
    }
}

fn address(loader: &mut Loader, key: &str, text: &str) -> SocketAddr {
    let parsed = HostPort::parse(text);
    let found = parsed.and_then(|address| {
        let mut all = (address.host.as_str(), address.port)
            .to_socket_addrs()
            .ok()?;
        all.next()
    });
    found.unwrap_or_else(|| {
        let problem = format!("`{text}` is not an address: write it as 0.0.0.0:8080");
        loader.mistake(Mistake::new(format!("{SECTION}.{key}"), problem));
        SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0)
    })
}

fn tls(loader: &mut Loader, section: &sections::Gateway) -> Option<tls::Plan> {
    let (cert, key) = match (&section.tls_cert, &section.tls_privkey) {
        (None, None) => return None,
        (cert, key) => (cert.clone(), key.clone()),
    };
    let cert = loader.require(SECTION, "tls_cert", cert);
    let privkey = loader.require(SECTION, "tls_privkey", key);
    Some(tls::Plan::of_pair(SECTION, cert, privkey))
}

fn networks(loader: &mut Loader, entries: &[String]) -> Vec<IpNet> {
    let parse = |entry: &String| {
        let network = parse_network(entry.trim());
        if network.is_none() {
            let problem = format!("`{entry}` is neither an address nor a network");
            loader.mistake(Mistake::new("gateway.trusted_proxies", problem));
        }
        network
    };
    entries.iter().filter_map(parse).collect()
}
