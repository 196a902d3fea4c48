//! Who changed a circuit, and why: what every change brings along, and the rows it leaves behind.
//! Rows are written in the transaction of the change and never altered.

use chrono::{DateTime, Utc};
use patchbay_common::circuit::{Circuit, Slot};
use patchbay_common::id::{CircuitId, EndpointId, SessionId, UserId, WorkerId};
use serde::Serialize;
use uuid::Uuid;

use super::{Result, StoreError};

/// The words of an enumeration as they are stored, shown and asked for.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$word_doc])* $word),+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$word),+];

            /// Its word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => $text),+
                }
            }

            /// The inverse of `as_str`.
            pub fn from_text(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

words! {
    /// On whose behalf a circuit was changed.
    Actor {
        /// A holder of the API's secret: the Manager, an operator.
        Manager = "manager",
        /// A holder of a session's token: its owner's browser or client.
        Session = "session",
        /// The coordinator of its own accord.
        Coordinator = "coordinator",
    }
}

words! {
    /// Why a circuit was changed.
    Reason {
        /// Somebody asked for it.
        Requested = "requested",
        /// Its worker did not say in time that it serves it.
        NotAcknowledged = "not-acknowledged",
        /// Nobody used it.
        Idle = "idle",
        /// Its session ended.
        SessionEnded = "session-ended",
        /// Its endpoint was deleted.
        EndpointDeleted = "endpoint-deleted",
        /// Its worker was lost.
        WorkerLost = "worker-lost",
        /// The labels of containers say so.
        Discovered = "discovered",
    }
}

words! {
    /// What was done to a circuit.
    Action {
        /// It was opened.
        Opened = "opened",
        /// It was closed.
        Closed = "closed",
        /// It went to another worker.
        Moved = "moved",
        /// It leads to other addresses.
        Rerouted = "rerouted",
        /// Grants to it count no more.
        Revoked = "revoked",
    }
}

/// Why a change is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// On whose behalf.
    pub actor: Actor,
    /// Why.
    pub reason: Reason,
    /// More about it, for people.
    pub detail: Option<String>,
    /// Id of the request that asks for it.
    pub request_id: Option<String>,
}

impl Cause {
    /// A change by this actor for this reason, asked for by the request that is being answered.
    pub fn now(actor: Actor, reason: Reason) -> Self {
        let request_id = patchbay_common::request_id::current();
        Self {
            actor,
            reason,
            detail: None,
            request_id: request_id.map(|id| id.as_str().to_owned()),
        }
    }

    /// The Manager, or who else holds its secret, asks.
    pub fn manager() -> Self {
        Self::now(Actor::Manager, Reason::Requested)
    }

    /// With more about it.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// A row of the audit.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// Its place; later rows have higher ones.
    pub seq: u64,
    /// When.
    pub at: DateTime<Utc>,
    /// What was done.
    pub action: Action,
    /// To which circuit.
    pub circuit: CircuitId,
    /// Its app or service.
    pub app: Option<String>,
    /// Its sessions.
    pub session_ids: Vec<SessionId>,
    /// Its endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// Its owner.
    pub user_id: Option<UserId>,
    /// The worker it is or was on; after a move, the new one.
    pub worker: WorkerId,
    /// That worker's name.
    pub authority: String,
    /// Its port or subdomain.
    pub slot: String,
    /// The worker it was on before a move.
    pub from: Option<(WorkerId, String)>,
    /// Why.
    pub cause: Cause,
}

/// Which rows are wanted. What is absent matches all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditFilter {
    /// Of this circuit.
    pub circuit: Option<CircuitId>,
    /// Of this session's circuits.
    pub session: Option<SessionId>,
    /// To or from this worker.
    pub worker: Option<WorkerId>,
    /// Of this kind.
    pub action: Option<Action>,
    /// Not earlier.
    pub since: Option<DateTime<Utc>>,
    /// Earlier.
    pub until: Option<DateTime<Utc>>,
    /// With lower places: the place of the last row of the page before.
    pub before: Option<u64>,
}

/// A row to be written.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) action: Action,
    pub(super) circuit: &'a Circuit,
    pub(super) authority: &'a str,
    pub(super) from: Option<(WorkerId, &'a str)>,
}

impl<'a> Record<'a> {
    pub(super) fn new(action: Action, circuit: &'a Circuit, authority: &'a str) -> Self {
        Self {
            action,
            circuit,
            authority,
            from: None,
        }
    }

    pub(super) fn slot(&self) -> String {
        self.circuit
            .slot()
            .as_ref()
            .map(Slot::to_string)
            .unwrap_or_default()
    }
}

/// A row as it is stored.
pub(super) struct AuditRow {
    pub(super) seq: i64,
    pub(super) at: DateTime<Utc>,
    pub(super) action: String,
    pub(super) circuit: Uuid,
    pub(super) app: Option<String>,
    pub(super) session_ids: Vec<Uuid>,
    pub(super) endpoint_id: Option<Uuid>,
    pub(super) user_id: Option<Uuid>,
    pub(super) worker: Uuid,
    pub(super) authority: String,
    pub(super) slot: String,
    pub(super) from_worker: Option<Uuid>,
    pub(super) from_authority: Option<String>,
    pub(super) actor: String,
    pub(super) reason: String,
    pub(super) detail: Option<String>,
    pub(super) request_id: Option<String>,
}

/// Columns of `patchbay_audit a`, in the order of [`AuditRow`].
pub(super) const COLUMNS: &str = "a.seq, a.at, a.action, a.circuit, a.app, a.session_ids, \
     a.endpoint_id, a.user_id, a.worker, a.authority, a.slot, a.from_worker, a.from_authority, \
     a.actor, a.reason, a.detail, a.request_id";

impl AuditRow {
    /// The entry of the row.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a word this release does not know.
    pub(super) fn read(self) -> Result<AuditEntry> {
        let seq = self.seq;
        let unknown = |column: &str, word: &str| StoreError::Corrupt {
            place: format!("patchbay_audit.{column} of {seq}"),
            problem: format!("unknown word {word}"),
        };
        Ok(AuditEntry {
            seq: u64::try_from(seq).map_err(|_| unknown("seq", "below 0"))?,
            at: self.at,
            action: Action::from_text(&self.action)
                .ok_or_else(|| unknown("action", &self.action))?,
            circuit: self.circuit.into(),
            app: self.app,
            session_ids: self.session_ids.into_iter().map(Into::into).collect(),
            endpoint_id: self.endpoint_id.map(Into::into),
            user_id: self.user_id.map(Into::into),
            worker: self.worker.into(),
            authority: self.authority,
            slot: self.slot,
            from: self
                .from_worker
                .map(|id| (id.into(), self.from_authority.unwrap_or_default())),
            cause: Cause {
                actor: Actor::from_text(&self.actor)
                    .ok_or_else(|| unknown("actor", &self.actor))?,
                reason: Reason::from_text(&self.reason)
                    .ok_or_else(|| unknown("reason", &self.reason))?,
                detail: self.detail,
                request_id: self.request_id,
            },
        })
    }
}

/// Reads rows and leaves out those that cannot be read, with a line in the log for each.
pub(super) fn readable(rows: impl IntoIterator<Item = AuditRow>) -> Vec<AuditEntry> {
    let read = |row: AuditRow| match row.read() {
        Ok(entry) => Some(entry),
        Err(error) => {
            log::error!("a row of the audit is left out: {error}");
            None
        }
    };
    rows.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for action in Action::ALL {
            assert_eq!(Action::from_text(action.as_str()), Some(*action));
        }
        assert_eq!(
            Reason::from_text("not-acknowledged"),
            Some(Reason::NotAcknowledged)
        );
        assert_eq!(Actor::from_text("nobody"), None);
    }
}
