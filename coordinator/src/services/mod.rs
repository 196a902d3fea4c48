//! Services of the gateway, as operators want them: put, replaced, taken away.
//!
//! A service is checked before it is kept, by itself and against the others, so that what a gateway
//! would refuse is refused here, where somebody reads the answer. What containers say of services is
//! kept beside (`found` does that) and comes second. `api` calls; this room refuses to know HTTP and
//! who listens.

pub mod found;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use patchbay_common::gateway::{Definition, Origin, Rule, Tie, is_name};

use crate::publish::ServiceFeeds;
use crate::store::{Cause, ServiceChange, Store, StoreError, StoredService};

/// Why a service is not put or taken away.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is none of this name.
    #[error("no such service")]
    NoSuchService,
    /// It was found, so nobody can take it away by a call.
    #[error("it was found in the labels of containers: it goes with them")]
    Found {
        /// Where.
        origins: Vec<Origin>,
    },
    /// The name is none.
    #[error("`{0}`: letters, digits, -, _ and . only, 64 of them at most")]
    Name(String),
    /// Keys that are wrong, and what is wrong with them.
    #[error("the service cannot be as it is written")]
    Flawed(Vec<(String, String)>),
    /// Another service has a route of this name.
    #[error("a route of this name leads to another service")]
    RouteTaken {
        /// The route.
        route: String,
        /// That service.
        service: String,
    },
    /// A route of another service takes the same requests.
    #[error("{tie}")]
    Tied {
        /// The two.
        tie: Tie,
        /// The other service.
        service: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Keeps services.
#[derive(Clone)]
pub struct Services {
    store: Arc<dyn Store>,
    feeds: Arc<ServiceFeeds>,
}

impl Services {
    /// Keeps them in this store and tells by these feeds.
    pub fn new(store: Arc<dyn Store>, feeds: Arc<ServiceFeeds>) -> Self {
        Self { store, feeds }
    }

    /// The feeds that tell of changes.
    pub fn feeds(&self) -> &ServiceFeeds {
        &self.feeds
    }

    /// The service of a name as it is in force, and the other origins that know one of it.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchService`], or if the store fails.
    pub async fn get(&self, name: &str) -> Result<(StoredService, Vec<Origin>), ServiceError> {
        let mut all = self.store.services(Some(name)).await?.services;
        all.sort_by(|one, two| one.published.origin.cmp(&two.published.origin));
        let mut all = all.into_iter();
        let first = all.next().ok_or(ServiceError::NoSuchService)?;
        let others = all.map(|one| one.published.origin);
        Ok((first, others.collect()))
    }

    /// Keeps a service as it is written.
    ///
    /// # Errors
    /// Everything that is wrong with it, or if the store fails.
    pub async fn put(
        &self,
        name: &str,
        written: serde_json::Value,
        cause: &Cause,
    ) -> Result<(StoredService, Vec<Origin>), ServiceError> {
        if !is_name(name) {
            return Err(ServiceError::Name(name.to_owned()));
        }
        let definition = Definition::read(written).map_err(ServiceError::Flawed)?;
        let definition = definition.of(name);
        let mut flaws = Vec::new();
        let rules = definition.check(name, &mut |key, problem| {
            flaws.push((key.to_owned(), problem));
        });
        if !flaws.is_empty() {
            return Err(ServiceError::Flawed(flaws));
        }
        self.compare(name, &rules).await?;
        let change = ServiceChange {
            name: name.to_owned(),
            origin: Origin::Api,
            definition: Some(definition),
        };
        self.change(&[change], cause).await?;
        self.get(name).await
    }

    /// Takes a service away that was put.
    ///
    /// # Errors
    /// If there is none, or none that was put, or the store fails.
    pub async fn remove(&self, name: &str, cause: &Cause) -> Result<(), ServiceError> {
        let change = ServiceChange {
            name: name.to_owned(),
            origin: Origin::Api,
            definition: None,
        };
        if self.change(&[change], cause).await? > 0 {
            return Ok(());
        }
        let (found, mut origins) = self.get(name).await?;
        origins.insert(0, found.published.origin);
        Err(ServiceError::Found { origins })
    }

    /// Makes services as they are to be and tells of it; answers how many were not so.
    async fn change(&self, changes: &[ServiceChange], cause: &Cause) -> Result<usize, StoreError> {
        let changed = self.store.change_services(changes, cause).await?;
        if !changed.is_empty() {
            self.feeds.poke();
        }
        for one in &changed {
            let what = match one.published.definition {
                Some(_) => "is kept",
                None => "is gone",
            };
            log::info!(
                origin = one.published.origin.to_string().as_str(),
                generation = one.published.generation;
                "service {} {what}", one.published.name
            );
        }
        Ok(changed.len())
    }

    /// Compares routes with those of other services that were put; what was found gives way.
    async fn compare(&self, name: &str, rules: &[Rule]) -> Result<(), ServiceError> {
        if rules.is_empty() {
            return Ok(());
        }
        let others = self.store.services(None).await?.services;
        let put = others.iter().map(|one| &one.published);
        let put = put.filter(|one| one.origin == Origin::Api && one.name != name);
        for other in put {
            let Some(definition) = &other.definition else {
                continue;
            };
            let taken = rules
                .iter()
                .find(|rule| definition.routes.contains_key(&rule.name));
            if let Some(rule) = taken {
                return Err(ServiceError::RouteTaken {
                    route: rule.name.clone(),
                    service: other.name.clone(),
                });
            }
            let theirs = definition.check(&other.name, &mut |_, _| {});
            let mut ties = rules
                .iter()
                .flat_map(|one| theirs.iter().filter_map(|two| one.tie(two)));
            if let Some(tie) = ties.next() {
                return Err(ServiceError::Tied {
                    tie,
                    service: other.name.clone(),
                });
            }
        }
        Ok(())
    }
}
