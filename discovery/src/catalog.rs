//! What was found, gathered by service.

use std::collections::BTreeMap;

use patchbay_common::config::HostPort;
use patchbay_common::gateway::{
    Definition, Health, Instance as Place, Route, Service as Section, Texts,
};

use crate::labels::{Container, Found, Wish, parse};

/// Services by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// The services.
    pub services: BTreeMap<String, Service>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// Where it is.
    pub instances: Vec<Instance>,
    /// What it is to be like.
    pub wish: Wish,
}

/// One place where a service is.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Its share of the requests.
    pub weight: f64,
}

/// How the address of a container is found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Addressing {
    /// The network to take it from, unless a label names another.
    pub network: Option<String>,
    /// Networks whoever calls is on; the first that both are on is taken.
    pub own_networks: Vec<String>,
    /// Take the port published on this host instead.
    pub published_on: Option<String>,
}

impl Catalog {
    /// Gathers what the labels of these containers say. A container whose labels are wrong, and
    /// one that is unwell, is left out; what is wrong is told to `complain` (container, text).
    pub fn gather(
        containers: &[Container],
        addressing: &Addressing,
        complain: &mut dyn FnMut(&str, String),
    ) -> Self {
        let mut catalog = Self::default();
        let mut sorted: Vec<&Container> = containers.iter().collect();
        sorted.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        for container in sorted {
            let found = match parse(container) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(mistakes) => {
                    for mistake in mistakes {
                        complain(&container.name, mistake.to_string());
                    }
                    continue;
                }
            };
            catalog.add(container, found, addressing, complain);
        }
        catalog
    }

    fn add(
        &mut self,
        container: &Container,
        found: Found,
        addressing: &Addressing,
        complain: &mut dyn FnMut(&str, String),
    ) {
        let instance = addressing.instance(container, &found);
        let service = self.services.entry(found.service.clone());
        let service = match service {
            std::collections::btree_map::Entry::Vacant(place) => place.insert(Service {
                instances: Vec::new(),
                wish: found.wish,
            }),
            std::collections::btree_map::Entry::Occupied(place) => {
                let service = place.into_mut();
                if service.wish != found.wish {
                    let problem = format!(
                        "says something else of service {} than its other containers: theirs holds",
                        found.service
                    );
                    complain(&container.name, problem);
                }
                service
            }
        };
        match instance {
            Ok(instance) if container.healthy => service.instances.push(instance),
            Ok(_) => {}
            Err(problem) => complain(&container.name, problem),
        }
    }
}

impl Service {
    /// The service as a configuration says it. Its route, if it asks for one, is called as it is.
    pub fn definition(&self, name: &str) -> Definition {
        let wish = &self.wish;
        let instances = self.instances.iter().map(|instance| Place {
            address: HostPort::new(instance.host.as_str(), instance.port).to_string(),
            weight: instance.weight,
        });
        let health = wish.health_path.as_ref().map(|path| Health {
            path: Some(path.clone()),
            interval: wish.health_interval,
            ..Health::default()
        });
        let service = Section {
            instances: instances.collect(),
            protocol: wish.protocol,
            balance: wish.balance,
            health,
            ..Section::default()
        };
        let has_route = !wish.hosts.is_empty() || wish.path.is_some() || wish.path_prefix.is_some();
        let route = has_route.then(|| Route {
            host: Texts(wish.hosts.clone()),
            path: wish.path.clone(),
            path_prefix: wish.path_prefix.clone(),
            strip_prefix: wish.strip_prefix.clone(),
            add_prefix: wish.add_prefix.clone(),
            middleware: wish.middleware.clone(),
            ..Route::default()
        });
        let routes = route.map(|route| (name.to_owned(), route));
        Definition {
            service,
            routes: routes.into_iter().collect(),
        }
        .of(name)
    }
}

impl Addressing {
    fn instance(&self, container: &Container, found: &Found) -> Result<Instance, String> {
        let (host, port) = match &self.published_on {
            Some(host) => {
                let mut published = container.published.iter();
                let port = published.find(|(inside, _)| *inside == found.port);
                let port = port.ok_or_else(|| format!("does not publish port {}", found.port))?;
                (host.clone(), port.1)
            }
            None => (self.address(container, found)?.to_owned(), found.port),
        };
        Ok(Instance {
            host,
            port,
            weight: found.weight,
        })
    }

    fn address<'a>(&self, container: &'a Container, found: &Found) -> Result<&'a str, String> {
        let networks = &container.networks;
        if let Some(wanted) = found.network.as_ref().or(self.network.as_ref()) {
            let address = networks.get(wanted).filter(|address| !address.is_empty());
            return address
                .map(String::as_str)
                .ok_or_else(|| format!("has no address on the network {wanted}"));
        }
        let shared = networks
            .iter()
            .filter(|(name, _)| self.own_networks.is_empty() || self.own_networks.contains(name));
        let mut addresses = shared.map(|(_, address)| address.as_str());
        addresses
            .find(|address| !address.is_empty())
            .ok_or_else(|| "has no address on a network we share".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, labels: &[(&str, &str)]) -> Container {
        let mut all: BTreeMap<String, String> =
            [("gateway.enable", "true"), ("gateway.service", "shop")]
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect();
        all.extend(labels.iter().map(|&(k, v)| (k.into(), v.into())));
        Container {
            name: name.into(),
            labels: all,
            ports: vec![80],
            published: vec![(80, 8001)],
            networks: [("a", "10.0.0.1"), ("b", "10.1.0.1"), ("empty", "")]
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
            healthy: true,
            ..Container::default()
        }
    }

    fn gather(containers: &[Container], addressing: &Addressing) -> (Catalog, Vec<String>) {
        let mut complaints = Vec::new();
        let catalog = Catalog::gather(containers, addressing, &mut |name, text| {
            complaints.push(format!("{name} {text}"));
        });
        (catalog, complaints)
    }

    #[test]
    fn the_address_is_of_the_network_meant() {
        let one = |labels: &[(&str, &str)], addressing: &Addressing| {
            let (catalog, complaints) = gather(&[container("c", labels)], addressing);
            let instance = catalog.services["shop"].instances.first();
            let shown = instance.map(|one| format!("{}:{}", one.host, one.port));
            shown.ok_or_else(|| complaints.join(", "))
        };
        let mut addressing = Addressing::default();
        assert_eq!(one(&[], &addressing).unwrap(), "10.0.0.1:80");
        addressing.own_networks = vec!["b".into()];
        assert_eq!(one(&[], &addressing).unwrap(), "10.1.0.1:80");
        addressing.network = Some("a".into());
        assert_eq!(one(&[], &addressing).unwrap(), "10.0.0.1:80");
        assert_eq!(
            one(&[("gateway.network", "b")], &addressing).unwrap(),
            "10.1.0.1:80"
        );
        assert!(one(&[("gateway.network", "empty")], &addressing).is_err());
        addressing.published_on = Some("docker.example".into());
        assert_eq!(one(&[], &addressing).unwrap(), "docker.example:8001");
        assert!(one(&[("gateway.port", "81")], &addressing).is_err());
    }

    #[test]
    fn containers_of_a_service_are_its_instances() {
        let mut unwell = container("c", &[]);
        unwell.healthy = false;
        let wrong = container("d", &[("gateway.weight", "heavy")]);
        let other = container("e", &[("gateway.path", "/x")]);
        let all = [
            container("b", &[("gateway.path", "/y")]),
            other,
            unwell,
            wrong,
        ];
        let (catalog, complaints) = gather(&all, &Addressing::default());
        let shop = &catalog.services["shop"];
        assert_eq!(shop.instances.len(), 2);
        assert_eq!(shop.wish.path.as_deref(), Some("/y"));
        // One has another wish (so has the unwell one, which has none), one cannot be understood.
        assert_eq!(complaints.len(), 3, "{complaints:?}");
    }
}
