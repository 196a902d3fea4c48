//! The credential of a request (contract/data-plane.md §5): a permit cookie for people's apps, a
//! bearer token for model endpoints, none where the circuit is open to the public. What is ours
//! is taken out before the app sees the request (pitfalls.md A10, A22).

mod bearer;
mod permit;

use std::sync::Arc;

use patchbay_common::circuit::AppMode;

use super::{Head, HeaderSink, Stages};
use crate::error::Refusal;
use crate::table::{Hold, LiveCircuit};

/// By what right a request is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// The circuit asks for none.
    Public,
    /// A permit bound to the circuit.
    Permit,
    /// The incumbent's permit of the user.
    LegacyPermit,
    /// An endpoint token.
    Bearer,
}

impl Credential {
    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Permit => "permit",
            Self::LegacyPermit => "legacy-permit",
            Self::Bearer => "bearer",
        }
    }
}

/// The right by which a request is carried, and what it ends by.
#[derive(Clone, Debug)]
pub struct Right {
    /// Its kind.
    pub credential: Credential,
    /// Its name, by which it can be revoked.
    pub grant: Option<String>,
    /// Ends the request when the right is revoked, or the circuit closes.
    pub hold: Arc<Hold>,
}

impl Right {
    /// The word for logs.
    pub fn as_str(&self) -> &'static str {
        self.credential.as_str()
    }
}

impl Stages {
    pub(super) fn right(
        &self,
        head: &Head<'_>,
        live: &LiveCircuit,
        now: u64,
    ) -> Result<Right, Refusal> {
        if live.circuit.open_to_public {
            return Ok(Right {
                credential: Credential::Public,
                grant: None,
                hold: live.grants.hold_ungranted(),
            });
        }
        let (credential, grant) = match live.circuit.app_mode {
            AppMode::Interactive => {
                permit::check(head, live, &self.permits, self.legacy_permits, now)
            }
            AppMode::Inference => bearer::check(head, live, &self.tokens),
        }?;
        let hold = live.grants.hold(&grant, now).ok_or(Refusal::Revoked)?;
        Ok(Right {
            credential,
            grant: Some(grant.name.into_owned()),
            hold,
        })
    }

    pub(super) fn strip_credentials(
        &self,
        head: &Head<'_>,
        live: &LiveCircuit,
        sink: &mut dyn HeaderSink,
    ) {
        permit::strip(head, sink);
        if live.circuit.app_mode == AppMode::Inference && !live.circuit.open_to_public {
            sink.remove("authorization");
        }
    }
}
