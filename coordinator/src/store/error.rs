//! Why the store could not do what it was asked.

use patchbay_common::grant::Full;
use patchbay_common::id::WorkerId;

/// A refusal or a failure of the store. It carries facts; `error.rs` turns them into HTTP.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The port asked for belongs to another circuit, or lies outside the worker's range.
    #[error("port {port} of worker {worker} is taken or out of its range")]
    PortTaken {
        /// The worker.
        worker: WorkerId,
        /// The port asked for.
        port: u16,
    },
    /// The subdomain asked for belongs to another circuit of the same domain.
    #[error("subdomain {subdomain} is taken")]
    SubdomainTaken {
        /// The subdomain asked for.
        subdomain: String,
    },
    /// The worker has no free slot.
    #[error("worker {0} has no free slot")]
    WorkerFull(WorkerId),
    /// There is no such worker, or it is not of the mode the slot asks for.
    #[error("there is no worker {0}")]
    NoSuchWorker(WorkerId),
    /// A value does not fit the schema: too long, or a text no database can hold. The request is
    /// at fault, trying again does not help.
    #[error("{field} cannot be stored: {problem}")]
    Unfit {
        /// The field.
        field: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// As many grants of the circuit are revoked by name as may be.
    #[error(transparent)]
    ListFull(#[from] Full),
    /// The database's schema is not one this program knows.
    #[error("the database is at schema {found}, this program knows {known}: {fix}")]
    UnknownSchema {
        /// What was found.
        found: String,
        /// What is known.
        known: String,
        /// What the operator can do.
        fix: String,
    },
    /// A value in the database cannot be read.
    #[error("{place} holds a value that cannot be read: {problem}")]
    Corrupt {
        /// Table and column, and the row's key.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The database did not answer, or failed; trying again may help.
    #[error("the database failed while {doing}: {}", chain(cause.as_ref()))]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// What the driver said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An error and what lies beneath it: drivers keep the reason out of their first sentence.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Names what was being done when a driver failed.
pub(super) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T, E: std::error::Error + Send + Sync + 'static> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|cause| StoreError::Failed {
            doing,
            cause: Box::new(cause),
        })
    }
}
