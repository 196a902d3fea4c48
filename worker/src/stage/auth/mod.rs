//! The credential of a request (contract/data-plane.md §5): a permit cookie for people's apps, a
//! bearer token for model endpoints, none where the circuit is open to the public. What is ours
//! is taken out before the app sees the request (pitfalls.md A10, A22).

mod bearer;
mod permit;

use patchbay_common::circuit::AppMode;

use super::{Head, HeaderSink, Stages};
use crate::error::Refusal;
use crate::table::LiveCircuit;

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

impl Stages {
    pub(super) fn credential(
        &self,
        head: &Head<'_>,
        live: &LiveCircuit,
        now: u64,
    ) -> Result<Credential, Refusal> {
        if live.circuit.open_to_public {
            return Ok(Credential::Public);
        }
        match live.circuit.app_mode {
            AppMode::Interactive => {
                permit::check(head, live, &self.permits, self.legacy_permits, now)
            }
            AppMode::Inference => bearer::check(head, live, &self.tokens),
        }
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
