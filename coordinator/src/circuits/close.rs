//! Closing: commit, then tell the worker.

use std::sync::Arc;

use patchbay_common::event::{Change, CircuitEvent};
use patchbay_common::id::CircuitId;
use patchbay_common::{request_id, timestamp};

use crate::publish::{Announcement, Bus};
use crate::store::{Closed, LoggedEvent, Store, StoreError};

/// Why a circuit was not closed.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// There is no such circuit.
    #[error("there is no such circuit")]
    NoSuchCircuit,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Closes circuits.
#[derive(Clone)]
pub struct Closer {
    store: Arc<dyn Store>,
    bus: Bus,
}

impl Closer {
    /// A closer.
    pub fn new(store: Arc<dyn Store>, bus: Bus) -> Self {
        Self { store, bus }
    }

    /// Closes a circuit and tells its worker, which is not waited for: the slot is free as soon as
    /// the store says so, and a worker that missed the news heals itself.
    ///
    /// # Errors
    /// [`CloseError::NoSuchCircuit`], or a failing store.
    pub async fn close(&self, id: CircuitId) -> Result<Closed, CloseError> {
        let request_id = request_id::current();
        let request_id = request_id.as_ref().map(|id| id.as_str());
        let closed = self.store.close_circuit(id, request_id).await?;
        let closed = closed.ok_or(CloseError::NoSuchCircuit)?;
        let event = LoggedEvent {
            worker: closed.circuit.worker,
            generation: closed.generation,
            event: CircuitEvent {
                authority: closed.authority.clone(),
                change: Change::Removed(vec![closed.circuit.clone()]),
            },
            request_id: request_id.map(str::to_owned),
            created_at: timestamp::now(),
        };
        self.bus
            .announce(Announcement {
                event: Arc::new(event),
                again: false,
            })
            .await;
        log::info!(circuit = id.to_string().as_str(), worker = closed.authority.as_str(); "circuit closed");
        Ok(closed)
    }
}
