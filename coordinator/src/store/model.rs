//! What goes into the store and comes out of it, beyond the nouns of `patchbay-common`.

use chrono::{DateTime, Utc};
use patchbay_common::circuit::{AppMode, Circuit, Protocol};
use patchbay_common::event::CircuitEvent;
use patchbay_common::id::{CircuitId, EndpointId, ProjectId, SessionId, TokenId, UserId, WorkerId};
use patchbay_common::route::Route;
use patchbay_common::worker::Worker;

use super::audit::{Actor, Cause, Reason};
use super::endpoint::Rerouted;

/// A row of `tokens`: the credential to open one session's apps.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionToken {
    /// Its key, which is the token itself.
    pub id: TokenId,
    /// The opener's login session, where the Manager passes it.
    pub login_session_token: Option<String>,
    /// Host of the session's kernel.
    pub kernel_host: String,
    /// Port of the app on that host.
    pub kernel_port: u16,
    /// The session.
    pub session_id: SessionId,
    /// Its owner.
    pub user: UserId,
    /// Its project.
    pub project: ProjectId,
    /// The owner's access key.
    pub access_key: String,
    /// The owner's domain.
    pub domain_name: String,
}

/// The slot a new circuit asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotWish {
    /// Any free port of the worker.
    AnyPort,
    /// This port and no other.
    Port(u16),
    /// This subdomain (normalised, lower case) and no other.
    Subdomain(String),
}

/// A circuit to be opened.
#[derive(Clone, Debug, PartialEq)]
pub struct NewCircuit {
    /// Its key.
    pub id: CircuitId,
    /// The worker to open it on.
    pub worker: WorkerId,
    /// The slot it asks for.
    pub slot: SlotWish,
    /// App or service name.
    pub app: Option<String>,
    /// What it carries.
    pub protocol: Protocol,
    /// Interactive or inference.
    pub app_mode: AppMode,
    /// Kept, not interpreted.
    pub envs: serde_json::Map<String, serde_json::Value>,
    /// Kept, not interpreted.
    pub arguments: Option<String>,
    /// No credential asked.
    pub open_to_public: bool,
    /// Networks allowed to use it.
    pub allowed_client_ips: Option<String>,
    /// Its owner.
    pub user_id: Option<UserId>,
    /// The endpoint it serves.
    pub endpoint_id: Option<EndpointId>,
    /// Free text.
    pub runtime_variant: Option<String>,
    /// Where its requests may go.
    pub routes: Vec<Route>,
    /// The sessions it is for.
    pub session_ids: Vec<SessionId>,
    /// Id of the request that opens it.
    pub origin_request_id: Option<String>,
    /// On whose behalf it is opened.
    pub by: Actor,
    /// If set, a circuit that matches is answered instead of opening one. Checked inside the
    /// transaction, so that two openers at once share one circuit.
    pub reuse: Option<Reuse>,
}

impl NewCircuit {
    /// Why it is opened.
    pub(super) fn cause(&self) -> Cause {
        Cause {
            actor: self.by,
            reason: Reason::Requested,
            detail: None,
            request_id: self.origin_request_id.clone(),
        }
    }
}

/// What has to be equal for a circuit to be shared (contract/rest-coordinator.md §7,
/// `/v2/proxy/auth` step 3). Circuits of lost workers are passed over (pitfalls.md B8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// One of the circuit's sessions.
    pub session: SessionId,
    /// Its app.
    pub app: Option<String>,
    /// What it carries.
    pub protocol: Protocol,
    /// Whether it asks for a credential.
    pub open_to_public: bool,
    /// Its networks; absent matches absent only.
    pub allowed_client_ips: Option<String>,
}

/// The answer to an opening.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    /// The circuit.
    pub circuit: Circuit,
    /// Its worker.
    pub worker: Worker,
    /// The worker's generation with the circuit in it.
    pub generation: u64,
    /// It was there before.
    pub reused: bool,
}

/// The answer to a closing.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed {
    /// The circuit as it was.
    pub circuit: Circuit,
    /// Name of its worker.
    pub authority: String,
    /// The worker's generation without it.
    pub generation: u64,
}

/// A circuit that has gone to another worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// The circuit on the worker it was on, and that worker's generation without it.
    pub left: Closed,
    /// The circuit on the worker it is on, and that worker's generation with it.
    pub arrived: Opened,
}

/// Which circuits are wanted. What is absent matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CircuitFilter {
    /// Of this session: opened for it, or leading to it.
    pub session: Option<SessionId>,
    /// Of this app or service.
    pub app: Option<String>,
    /// On this worker.
    pub worker: Option<WorkerId>,
    /// On this port.
    pub port: Option<u16>,
    /// Under this subdomain.
    pub subdomain: Option<String>,
    /// With higher keys: the last one of the page before.
    pub after: Option<CircuitId>,
}

/// What the end of a session came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ended {
    /// The circuits that were its own.
    pub closed: Vec<Closed>,
    /// The endpoints' circuits that led to it among others.
    pub rerouted: Vec<Rerouted>,
}

/// A worker's circuits as of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerCircuits {
    /// All of them.
    pub circuits: Vec<Circuit>,
    /// The generation they add up to.
    pub generation: u64,
}

/// A slot that a circuit holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSlot {
    /// The circuit.
    pub circuit: CircuitId,
    /// Its port, if it has one.
    pub port: Option<u16>,
    /// Its subdomain, if it has one.
    pub subdomain: Option<String>,
}

/// The slots that a worker's circuits hold as of one moment: all there is to know of circuits for
/// who only counts or lists slots, at a fraction of their size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSlots {
    /// One for each circuit, the oldest first.
    pub slots: Vec<HeldSlot>,
    /// The generation they add up to.
    pub generation: u64,
}

/// A committed event.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedEvent {
    /// The worker concerned.
    pub worker: WorkerId,
    /// Its generation after the change.
    pub generation: u64,
    /// The change.
    pub event: CircuitEvent,
    /// Id of the request that caused it.
    pub request_id: Option<String>,
    /// When it was committed.
    pub created_at: DateTime<Utc>,
}

/// A circuit that has been open for some time: what has to be known to ask for its use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongOpen {
    /// Its key.
    pub id: CircuitId,
    /// Where it is.
    pub worker: WorkerId,
    /// App or service name.
    pub app: Option<String>,
    /// When it was opened.
    pub opened: DateTime<Utc>,
}
