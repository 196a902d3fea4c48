//! Revoking grants: commit, then tell the worker, which ends what they carry.

use patchbay_common::circuit::Circuit;
use patchbay_common::grant::Revocation;
use patchbay_common::id::CircuitId;

use super::announce;
use super::close::{CloseError, Closer};
use crate::store::Cause;

impl Closer {
    /// Revokes grants of a circuit and tells its worker, which is not waited for: one that missed
    /// the news finds it at its next fetch. Answers with the circuit as it is now.
    ///
    /// # Errors
    /// [`CloseError::NoSuchCircuit`], or a failing store, or one whose list is full.
    pub async fn revoke(
        &self,
        id: CircuitId,
        revocation: &Revocation,
    ) -> Result<Circuit, CloseError> {
        let what = match revocation {
            Revocation::Name(name, _) => name.clone(),
            Revocation::UpTo(_) => "all given so far".to_owned(),
        };
        let cause = Cause::manager().because(what.clone());
        let told = self.store().revoke(id, revocation, &cause).await?;
        let told = told.ok_or(CloseError::NoSuchCircuit)?;
        self.bus().announce(announce::rerouted(&told)).await;
        log::info!(
            circuit = id.to_string().as_str(), worker = told.authority.as_str();
            "revoked: {what}"
        );
        Ok(told.circuit)
    }
}
