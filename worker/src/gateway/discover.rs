//! Services found in container labels, beside those of the configuration.
//!
//! What was written comes first: a found service or route of the same name gives way to it, and so
//! does a found route that ties with it. What cannot be followed is left out and said once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use patchbay_common::config::Seconds;
use patchbay_discovery::catalog::{Addressing, Service};
use patchbay_discovery::docker::TlsFiles;
use patchbay_discovery::{Catalog, Docker, DockerError, DockerSettings};
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as ValueError, StrDeserializer};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Gateway;
use super::config::sections;

/// Where an engine is if nothing is said.
const USUAL_ENDPOINT: &str = "unix:///var/run/docker.sock";

/// A watcher of the engine that a section describes.
pub(super) fn docker(name: &str, section: &sections::Docker) -> Result<Docker, DockerError> {
    let files = (&section.tls_ca, &section.tls_cert, &section.tls_key);
    let tls = match files {
        (None, None, None) => None,
        (Some(ca), Some(cert), Some(key)) => Some(TlsFiles {
            ca: ca.clone(),
            cert: cert.clone(),
            key: key.clone(),
        }),
        _ => return Err(DockerError::TlsFiles),
    };
    let endpoint = section.endpoint.as_deref().unwrap_or(USUAL_ENDPOINT);
    Docker::new(DockerSettings {
        name: name.to_owned(),
        endpoint: endpoint.to_owned(),
        tls,
        addressing: Addressing {
            network: section.network.clone(),
            own_networks: section.own_networks.clone(),
            published_on: section.published_on.clone(),
        },
    })
}

/// The engines being watched.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<BTreeMap<String, (sections::Docker, DropGuard)>>);

impl Watchers {
    /// Watches these engines and no others, for `gateway`; needs a runtime. Answers with the names
    /// of those that are watched no more.
    pub(super) fn watch(
        &self,
        gateway: &Arc<Gateway>,
        wanted: &BTreeMap<String, sections::Docker>,
    ) -> Vec<String> {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = Vec::new();
        watched.retain(|name, (section, _)| {
            let stays = wanted.get(name) == Some(section);
            if !stays {
                gone.push(name.clone());
            }
            stays
        });
        for (name, section) in wanted {
            if watched.contains_key(name) {
                continue;
            }
            match docker(name, section) {
                Ok(docker) => {
                    let guard = spawn(gateway, name, docker);
                    watched.insert(name.clone(), (section.clone(), guard));
                }
                Err(error) => log::error!("gateway.docker.{name}: {error}"),
            }
        }
        gone
    }
}

fn spawn(gateway: &Arc<Gateway>, name: &str, docker: Docker) -> DropGuard {
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    let (sender, mut catalog) = watch::channel(Catalog::default());
    let (gateway, name) = (Arc::downgrade(gateway), name.to_owned());
    let following = async move {
        while catalog.changed().await.is_ok() {
            let Some(gateway) = gateway.upgrade() else {
                return;
            };
            let found = catalog.borrow_and_update().clone();
            gateway.found(&name, found);
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = docker.watch(sender) => {}
            () = following => {}
        }
    });
    guard
}

/// The configuration with what was found; what cannot be followed is told to `complain`.
pub(super) fn merge(
    written: &sections::Gateway,
    catalogs: &BTreeMap<String, Catalog>,
    complain: &mut dyn FnMut(String),
) -> sections::Gateway {
    let mut all = written.clone();
    for (engine, catalog) in catalogs {
        for (name, service) in &catalog.services {
            let taken = written.services.contains_key(name) || written.routes.contains_key(name);
            if taken {
                complain(format!(
                    "docker {engine}: {name} is configured too: that holds"
                ));
                continue;
            }
            add(&mut all, engine, name, service, complain);
        }
    }
    all
}

fn add(
    all: &mut sections::Gateway,
    engine: &str,
    name: &str,
    service: &Service,
    complain: &mut dyn FnMut(String),
) {
    let instances = service.instances.iter().map(|instance| sections::Instance {
        address: address(&instance.host, instance.port),
        weight: instance.weight,
    });
    if let Some(known) = all.services.get_mut(name) {
        // Another engine has some of it too.
        known.instances.extend(instances);
        return;
    }
    let wish = &service.wish;
    let health = match health(service) {
        Ok(health) => health,
        Err(error) => {
            complain(format!(
                "docker {engine}: {name}: gateway.health.interval: {error}"
            ));
            None
        }
    };
    all.found.insert(name.to_owned());
    let section = sections::Service {
        instances: instances.collect(),
        balance: balance(wish.balance.as_deref()),
        health,
        ..sections::Service::default()
    };
    all.services.insert(name.to_owned(), section);
    let has_route = !wish.hosts.is_empty() || wish.path.is_some() || wish.path_prefix.is_some();
    if has_route {
        let route = sections::Route {
            host: sections::Texts(wish.hosts.clone()),
            path: wish.path.clone(),
            path_prefix: wish.path_prefix.clone(),
            strip_prefix: wish.strip_prefix.clone(),
            add_prefix: wish.add_prefix.clone(),
            middleware: wish.middleware.clone(),
            service: Some(name.to_owned()),
            ..sections::Route::default()
        };
        all.routes.insert(name.to_owned(), route);
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn balance(text: Option<&str>) -> sections::Balance {
    match text {
        Some("weighted") => sections::Balance::Weighted,
        Some("least-outstanding") => sections::Balance::LeastOutstanding,
        Some("hash") => sections::Balance::Hash,
        _ => sections::Balance::RoundRobin,
    }
}

fn health(service: &Service) -> Result<Option<sections::Health>, ValueError> {
    let wish = &service.wish;
    let interval = wish.health_interval.as_deref().map(|text| {
        let text: StrDeserializer<'_, ValueError> = text.into_deserializer();
        Seconds::deserialize(text)
    });
    let interval = interval.transpose()?;
    Ok(wish.health_path.as_ref().map(|path| sections::Health {
        path: Some(path.clone()),
        interval,
        ..sections::Health::default()
    }))
}

/// Takes what has a flaw out of what was found. True if anything was taken out.
pub(super) fn yield_to(
    wanted: &mut sections::Gateway,
    flaws: &[super::plan::Flaw],
    complain: &mut dyn FnMut(String),
) -> bool {
    let mut names = BTreeSet::new();
    for (key, problem) in flaws {
        let mut parts = key.split('.');
        let (Some("routes" | "services"), Some(name)) = (parts.next(), parts.next()) else {
            continue;
        };
        if wanted.found.contains(name) {
            complain(format!("{name}, found in labels, is left out: {problem}"));
            names.insert(name.to_owned());
        }
    }
    for name in &names {
        wanted.routes.remove(name);
        wanted.found.remove(name);
        // Nobody asks for it by another way.
        let used = wanted.routes.values();
        if !used
            .into_iter()
            .any(|route| route.service.as_ref() == Some(name))
        {
            wanted.services.remove(name);
        }
    }
    !names.is_empty()
}
