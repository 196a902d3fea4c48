//! Registrations, heartbeats, good-byes.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use patchbay_common::circuit::FrontendMode;
use patchbay_common::id::WorkerId;
use patchbay_common::worker::{Registration, Worker};

use crate::publish::redis::Redis;
use crate::store::{Store, StoreError};

/// Why a worker was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The registration lacks what its mode needs.
    #[error("{field}: {fix}")]
    Incomplete {
        /// The field.
        field: &'static str,
        /// What to do.
        fix: &'static str,
    },
    /// There is no such worker.
    #[error("there is no such worker")]
    NoSuchWorker,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The book of workers.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn Store>,
    redis: Option<Arc<Redis>>,
}

impl Registry {
    /// A registry that also notes signs of life in Redis, where there is one.
    pub fn new(store: Arc<dyn Store>, redis: Option<Arc<Redis>>) -> Self {
        Self { store, redis }
    }

    /// Takes a worker in, or brings what is known of it up to date.
    ///
    /// # Errors
    /// [`JoinError::Incomplete`], or a failing store.
    pub async fn register(&self, registration: &Registration) -> Result<Worker, JoinError> {
        check(registration)?;
        let worker = self.store.register_worker(registration).await?;
        log::info!(
            worker = worker.authority.as_str(), nodes = worker.nodes, slots = worker.available_slots;
            "worker registered"
        );
        self.note_life(&worker);
        Ok(worker)
    }

    /// A worker's sign of life, by the node of this name where it gave one.
    ///
    /// # Errors
    /// [`JoinError::NoSuchWorker`], or a failing store.
    pub async fn heartbeat(&self, id: WorkerId, node: Option<&str>) -> Result<Worker, JoinError> {
        let worker = self.store.heartbeat(id, node).await?;
        let worker = worker.ok_or(JoinError::NoSuchWorker)?;
        self.note_life(&worker);
        Ok(worker)
    }

    /// One node of the worker leaves.
    ///
    /// # Errors
    /// [`JoinError::NoSuchWorker`], or a failing store.
    pub async fn leave(&self, id: WorkerId, node: Option<&str>) -> Result<Worker, JoinError> {
        let worker = self.store.leave_worker(id, node).await?;
        let worker = worker.ok_or(JoinError::NoSuchWorker)?;
        log::info!(worker = worker.authority.as_str(), nodes = worker.nodes; "a node left");
        Ok(worker)
    }

    /// Tells the incumbent's coordinators, who look into Redis. Nobody waits for it; where it
    /// fails, the next heartbeat brings the next chance.
    fn note_life(&self, worker: &Worker) {
        let Some(redis) = self.redis.clone() else {
            return;
        };
        let (authority, seen) = (worker.authority.clone(), epoch(worker.updated_at));
        tokio::spawn(async move {
            if let Err(error) = redis.saw(&authority, seen).await {
                log::debug!(worker = authority.as_str(); "sign of life not kept in redis: {error}");
            }
        });
    }
}

fn epoch(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
}

fn check(registration: &Registration) -> Result<(), JoinError> {
    let refuse = |field, fix| Err(JoinError::Incomplete { field, fix });
    if registration.authority.trim().is_empty() {
        return refuse("authority", "give the worker a name");
    }
    if registration.hostname.trim().is_empty() {
        return refuse("hostname", "say under which host clients reach the worker");
    }
    match registration.frontend_mode {
        FrontendMode::Port => match registration.port_range {
            Some((first, last)) if 0 < first && first <= last => Ok(()),
            Some(_) => refuse("port_range", "the first port must be from 1 up to the last"),
            None => refuse(
                "port_range",
                "a worker in port mode needs its first and last port",
            ),
        },
        FrontendMode::Wildcard => match registration.wildcard_domain.as_deref() {
            Some(domain) if domain.starts_with('.') && domain.len() > 1 => Ok(()),
            Some(_) => refuse("wildcard_domain", "the domain must begin with a dot"),
            None => refuse(
                "wildcard_domain",
                "a worker in wildcard mode needs its domain",
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_vectors::vectors;

    fn sample(body: &str) -> Registration {
        serde_json::from_value(vectors()["worker_register"][body].clone()).unwrap()
    }

    #[test]
    fn each_mode_needs_its_slots() {
        let (port, wildcard) = (sample("body_port_mode"), sample("body_wildcard_mode"));
        assert!(check(&port).is_ok() && check(&wildcard).is_ok());
        for range in [None, Some((0, 5)), Some((9, 8))] {
            let bad = Registration {
                port_range: range,
                ..port.clone()
            };
            assert!(
                check(&bad)
                    .unwrap_err()
                    .to_string()
                    .starts_with("port_range")
            );
        }
        for domain in [None, Some(".".to_owned()), Some("app.local".to_owned())] {
            let bad = Registration {
                wildcard_domain: domain,
                ..wildcard.clone()
            };
            assert!(
                check(&bad)
                    .unwrap_err()
                    .to_string()
                    .starts_with("wildcard_domain")
            );
        }
    }
}
