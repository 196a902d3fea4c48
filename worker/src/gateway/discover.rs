//! Services that others tell of, beside those of the configuration: the coordinator's list, and the
//! labels of containers that this worker watches itself.
//!
//! What was written comes first, then what somebody put at the coordinator, then what was found: a
//! service or route of the same name gives way, and so does a route that ties. What cannot be
//! followed is left out and said once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use patchbay_common::gateway::{Definition, Origin, Published};
use patchbay_discovery::{Catalog, Docker, DockerSection};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Gateway;
use super::config::sections::{self, Guest, Guests};

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By the coordinator.
    pub(super) coordinator: Arc<[Published]>,
    /// By engines.
    pub(super) engines: BTreeMap<String, Catalog>,
}

/// The engines being watched.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<BTreeMap<String, (DockerSection, DropGuard)>>);

impl Watchers {
    /// Watches these engines and no others, for `gateway`; needs a runtime. Answers with the names
    /// of those that are watched no more.
    pub(super) fn watch(
        &self,
        gateway: &Arc<Gateway>,
        wanted: &BTreeMap<String, DockerSection>,
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
            match section.watcher(name) {
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
    let (sender, mut catalog) = watch::channel(None::<Catalog>);
    let (gateway, name) = (Arc::downgrade(gateway), name.to_owned());
    let following = async move {
        while catalog.changed().await.is_ok() {
            let Some(gateway) = gateway.upgrade() else {
                return;
            };
            let found = catalog.borrow_and_update().clone();
            if let Some(found) = found {
                gateway.found(&name, found);
            }
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

/// The configuration with what was told; what cannot be followed is told to `complain`.
pub(super) fn merge(
    written: &sections::Gateway,
    told: &Told,
    complain: &mut dyn FnMut(String),
) -> sections::Gateway {
    let mut all = written.clone();
    let mut listed: Vec<&Published> = told.coordinator.iter().collect();
    listed.sort_by(|one, two| (&one.origin, &one.name).cmp(&(&two.origin, &two.name)));
    for one in listed {
        if let Some(definition) = &one.definition {
            let guest = Guest::Coordinator(one.origin.clone());
            add(&mut all, &guest, &one.name, definition, complain);
        }
    }
    for (engine, catalog) in &told.engines {
        let guest = Guest::Labels(engine.clone());
        for (name, service) in &catalog.services {
            add(&mut all, &guest, name, &service.definition(name), complain);
        }
    }
    all.await_services();
    all
}

fn add(
    all: &mut sections::Gateway,
    guest: &Guest,
    name: &str,
    definition: &Definition,
    complain: &mut dyn FnMut(String),
) {
    match (all.guests.services.get(name), all.services.get_mut(name)) {
        (Some(first), Some(known)) if first.was_found() && guest.was_found() => {
            // Another engine has some of it too; the same container may be seen by two.
            for instance in &definition.service.instances {
                let seen = &mut known.instances;
                if !seen.iter().any(|one| one.address == instance.address) {
                    seen.push(instance.clone());
                }
            }
            return;
        }
        (Some(first), _) => {
            return complain(format!(
                "{guest}: {name} is there by {first} too: that holds"
            ));
        }
        (None, Some(_)) => {
            return complain(format!("{guest}: {name} is configured too: that holds"));
        }
        (None, None) => {}
    }
    all.services
        .insert(name.to_owned(), definition.service.clone());
    all.guests.services.insert(name.to_owned(), guest.clone());
    for (name, route) in &definition.routes {
        if all.routes.contains_key(name) {
            let holds = match all.guests.routes.get(name) {
                Some(first) => format!("there by {first}"),
                None => "configured".to_owned(),
            };
            complain(format!("{guest}: route {name} is {holds} too: that holds"));
            continue;
        }
        all.routes.insert(name.clone(), route.clone());
        all.guests.routes.insert(name.clone(), guest.clone());
    }
}

impl Guest {
    /// Nobody said it: it was found.
    fn was_found(&self) -> bool {
        !matches!(self, Self::Coordinator(Origin::Api))
    }
}

/// Takes what has a flaw out of what was told. True if anything was taken out.
pub(super) fn yield_to(
    wanted: &mut sections::Gateway,
    flaws: &[super::plan::Flaw],
    complain: &mut dyn FnMut(String),
) -> bool {
    let told: Vec<(bool, String)> = flaws
        .iter()
        .filter_map(|(key, problem)| {
            let (service, name, guest) = wanted.guests.at(key)?;
            complain(format!("{guest}: {name} is left out: {problem}"));
            Some((service, name))
        })
        .collect();
    for (service, name) in &told {
        if *service {
            wanted.drop_service(name);
        } else {
            wanted.drop_route(name);
        }
    }
    !told.is_empty()
}

impl Guests {
    /// The guest that a flaw's key is about: whether it is a service, its name, who told of it.
    /// Names may have dots in them.
    fn at(&self, key: &str) -> Option<(bool, String, Guest)> {
        let (kind, rest) = key.split_once('.')?;
        let (service, guests) = match kind {
            "services" => (true, &self.services),
            "routes" => (false, &self.routes),
            _ => return None,
        };
        let ends = rest.match_indices('.').map(|(at, _)| at);
        let names = ends.chain([rest.len()]).filter_map(|end| rest.get(..end));
        let mut known = names.filter_map(|name| guests.get_key_value(name));
        let (name, guest) = known.next_back()?;
        Some((service, name.clone(), guest.clone()))
    }
}

impl sections::Gateway {
    /// Where others tell of services too, a route may lead to one that nobody has told of yet: it
    /// has no instances so far.
    pub(crate) fn await_services(&mut self) {
        if self.docker.is_empty() && !self.follows {
            return;
        }
        for service in self
            .routes
            .values()
            .filter_map(|route| route.service.as_ref())
        {
            if !self.services.contains_key(service) {
                self.services.insert(service.clone(), Default::default());
            }
        }
    }

    fn drop_service(&mut self, name: &str) {
        self.services.remove(name);
        self.guests.services.remove(name);
        let leads = |route: &sections::Route| route.service.as_deref() == Some(name);
        let routes: Vec<String> = self
            .guests
            .routes
            .keys()
            .filter(|route| self.routes.get(*route).is_some_and(leads))
            .cloned()
            .collect();
        for route in routes {
            self.routes.remove(&route);
            self.guests.routes.remove(&route);
        }
    }

    /// A service that was told of and that no route leads to any more goes with it.
    fn drop_route(&mut self, name: &str) {
        self.guests.routes.remove(name);
        let service = self.routes.remove(name).and_then(|route| route.service);
        let Some(service) = service else { return };
        let used = self.routes.values();
        let used = used
            .into_iter()
            .any(|route| route.service.as_deref() == Some(&service));
        if !used && self.guests.services.remove(&service).is_some() {
            self.services.remove(&service);
        }
    }
}

#[cfg(test)]
mod tests;
