//! Closing: commit, then tell the worker.

use std::sync::Arc;

use patchbay_common::circuit::{AppMode, Circuit};
use patchbay_common::id::{CircuitId, SessionId};

use super::announce;
use crate::publish::Bus;
use crate::store::{Cause, Closed, Store, StoreError};

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

    pub(super) fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    pub(super) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Closes a circuit and tells its worker, which is not waited for: the slot is free as soon as
    /// the store says so, and a worker that missed the news heals itself.
    ///
    /// # Errors
    /// [`CloseError::NoSuchCircuit`], or a failing store.
    pub async fn close(&self, id: CircuitId, cause: &Cause) -> Result<Closed, CloseError> {
        let closed = self.close_unsaid(id, cause).await?;
        log::info!(circuit = id.to_string().as_str(), worker = closed.authority.as_str(); "circuit closed");
        Ok(closed)
    }

    /// As [`Closer::close`], for a caller that has more to say in the log about why.
    ///
    /// # Errors
    /// As `close`.
    pub async fn close_unsaid(&self, id: CircuitId, cause: &Cause) -> Result<Closed, CloseError> {
        let closed = self.store.close_circuit(id, cause).await?;
        let closed = closed.ok_or(CloseError::NoSuchCircuit)?;
        self.bus.announce(announce::removed(&closed)).await;
        Ok(closed)
    }

    /// Closes circuits in one transaction and tells their workers; those that do not exist are
    /// passed over.
    ///
    /// # Errors
    /// A failing store; nothing is closed then.
    pub async fn close_all(
        &self,
        ids: &[CircuitId],
        cause: &Cause,
    ) -> Result<Vec<Closed>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let closed = self.store.close_circuits(ids, cause).await?;
        self.tell(&closed).await;
        Ok(closed)
    }

    /// Closes the circuits that a session has for an app, or for any.
    ///
    /// # Errors
    /// A failing store; nothing is closed then.
    pub async fn close_app(
        &self,
        session: SessionId,
        app: Option<&str>,
        cause: &Cause,
    ) -> Result<Vec<Closed>, StoreError> {
        let circuits = self.store.session_circuits(session).await?;
        let wanted = |circuit: &Circuit| {
            circuit.app_mode == AppMode::Interactive
                && app.is_none_or(|app| circuit.app.as_deref() == Some(app))
        };
        let ids: Vec<CircuitId> = circuits
            .iter()
            .filter(|c| wanted(c))
            .map(|c| c.id)
            .collect();
        self.close_all(&ids, cause).await
    }

    /// Ends all there is of a session: its circuits, its tokens, the routes that lead to it.
    /// Answers with how many circuits were closed, and how many lead elsewhere only.
    ///
    /// # Errors
    /// A failing store; nothing is changed then.
    pub async fn end_session(
        &self,
        session: SessionId,
        cause: &Cause,
    ) -> Result<(usize, usize), StoreError> {
        let ended = self.store.end_session(session, cause).await?;
        self.tell(&ended.closed).await;
        for one in &ended.rerouted {
            self.bus.announce(announce::rerouted(one)).await;
        }
        Ok((ended.closed.len(), ended.rerouted.len()))
    }

    /// Tells workers of circuits that were closed.
    pub(super) async fn tell(&self, closed: &[Closed]) {
        for one in closed {
            self.bus.announce(announce::removed(one)).await;
            log::info!(
                circuit = one.circuit.id.to_string().as_str(), worker = one.authority.as_str();
                "circuit closed"
            );
        }
    }
}
