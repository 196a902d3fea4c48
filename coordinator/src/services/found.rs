//! Services found in the labels of containers, kept as long as the containers are there.
//!
//! Every coordinator watches the engines of its `[discovery.docker]`, so that the one that takes the
//! lease over knows them already; only the holder of the lease writes. What an engine said last
//! stays while it cannot be reached, also over a restart: nothing is withdrawn before the engine has
//! said what there is. What belongs to an engine that is not watched any more is withdrawn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use patchbay_common::gateway::{Definition, Origin};
use patchbay_discovery::{Catalog, DockerError, DockerSection};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::Services;
use crate::lease::Lease;
use crate::store::{Actor, Cause, Reason, ServiceChange, StoreError};

/// How often it is looked whether the lease has come, and a failed write is tried again.
const SOON: Duration = Duration::from_millis(500);

/// What the engines say.
pub struct Discovery {
    services: Services,
    engines: BTreeMap<String, DockerSection>,
}

impl Discovery {
    /// Will watch these engines.
    pub fn new(services: Services, engines: BTreeMap<String, DockerSection>) -> Self {
        Self { services, engines }
    }

    /// Watches and keeps, until the process ends.
    pub async fn run(&self, lease: &Lease) {
        let mut work = JoinSet::new();
        let changed = Arc::new(Notify::new());
        let mut catalogs = BTreeMap::new();
        for (name, section) in &self.engines {
            match self.watch(section, name, &changed, &mut work) {
                Ok(catalog) => {
                    catalogs.insert(name.clone(), catalog);
                }
                Err(error) => log::error!("discovery.docker.{name}: {error}"),
            }
        }
        let (mut held, mut stale, mut failing) = (false, true, false);
        loop {
            let holds = lease.is_held();
            if holds && (stale || !held) {
                match self.settle(&catalogs).await {
                    Ok(()) => (stale, failing) = (false, false),
                    Err(error) => {
                        if !failing {
                            log::warn!("what was found cannot be kept for now: {error}");
                        }
                        (stale, failing) = (true, true);
                    }
                }
            }
            held = holds;
            tokio::select! {
                () = changed.notified() => stale = true,
                () = tokio::time::sleep(SOON) => {}
            }
        }
    }

    fn watch(
        &self,
        section: &DockerSection,
        name: &str,
        changed: &Arc<Notify>,
        work: &mut JoinSet<()>,
    ) -> Result<watch::Receiver<Option<Catalog>>, DockerError> {
        let docker = section.watcher(name)?;
        let (sender, catalog) = watch::channel(None);
        work.spawn(docker.watch(sender));
        let (changed, mut heard) = (Arc::clone(changed), catalog.clone());
        work.spawn(async move {
            while heard.changed().await.is_ok() {
                changed.notify_one();
            }
        });
        Ok(catalog)
    }

    /// Makes the services of engines what the engines say.
    async fn settle(
        &self,
        catalogs: &BTreeMap<String, watch::Receiver<Option<Catalog>>>,
    ) -> Result<(), StoreError> {
        let mut wanted = Vec::new();
        let mut silent = BTreeSet::new();
        for (name, catalog) in catalogs {
            match catalog.borrow().as_ref() {
                Some(catalog) => wanted.extend(definitions(name, catalog)),
                // Until it has said something, what it said before holds.
                None => {
                    silent.insert(name.clone());
                }
            }
        }
        for one in self.services.store.services(None).await?.services {
            let published = one.published;
            let stays = match &published.origin {
                Origin::Docker(engine) => silent.contains(engine),
                Origin::Api => true,
            };
            let found = |change: &ServiceChange| {
                change.name == published.name && change.origin == published.origin
            };
            if !stays && !wanted.iter().any(found) {
                wanted.push(ServiceChange {
                    name: published.name,
                    origin: published.origin,
                    definition: None,
                });
            }
        }
        let cause = Cause::now(Actor::Coordinator, Reason::Discovered);
        if !wanted.is_empty() {
            self.services.change(&wanted, &cause).await?;
        }
        Ok(())
    }
}

/// The services of an engine; what no gateway could follow is left out and said.
fn definitions(engine: &str, catalog: &Catalog) -> Vec<ServiceChange> {
    let good = catalog.services.iter().filter_map(|(name, service)| {
        let definition = service.definition(name);
        let flaws = flaws(name, &definition);
        if !flaws.is_empty() {
            log::warn!("docker {engine}: {name} is left out: {}", flaws.join("; "));
            return None;
        }
        Some(ServiceChange {
            name: name.clone(),
            origin: Origin::Docker(engine.to_owned()),
            definition: Some(definition),
        })
    });
    good.collect()
}

fn flaws(name: &str, definition: &Definition) -> Vec<String> {
    let mut flaws = Vec::new();
    definition.check(name, &mut |key, problem| {
        flaws.push(format!("{key}: {problem}"));
    });
    flaws
}
