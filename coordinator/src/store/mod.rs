//! The store: what is true about workers, tokens and circuits.
//!
//! Every change to a worker's circuits commits three things together: the rows, the worker's next
//! generation, and the event that tells of it (the outbox, which is also the log that workers
//! resume from). Slots are unique by a constraint of the database, never by looking first. This
//! room refuses to choose workers, to publish, and to know HTTP; `circuits`, `registry` and
//! `publish` call it.

mod audit;
mod endpoint;
mod error;
mod fit;
mod model;
mod postgres;
mod report;
mod schema;
mod services;
mod sqlite;
mod stored;

#[cfg(test)]
mod contract;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use patchbay_common::circuit::Circuit;
use patchbay_common::grant::Revocation;
use patchbay_common::id::{CircuitId, EndpointId, SessionId, TokenId, WorkerId};
use patchbay_common::route_report::RouteReport;
use patchbay_common::tunnel::{Claim, Holdings, Settled};
use patchbay_common::use_report::{CircuitUse, UseReport};
use patchbay_common::worker::{AppFilter, Registration, Worker};
use uuid::Uuid;

pub use audit::{Action, Actor, AuditEntry, AuditFilter, Cause, Reason};
pub use endpoint::{
    HealthCheck, NewEndpoint, Rerouted, Rerouting, RouteChange, RoutesChanged, RoutesRefused,
};
pub use error::StoreError;

pub use model::{
    CircuitFilter, Closed, Ended, HeldSlot, HeldSlots, LoggedEvent, LongOpen, Moved, NewCircuit,
    Opened, Reuse, SessionToken, SlotWish, WorkerCircuits,
};
pub use report::{CircuitCount, Figures, NodeReport, Observer};

pub use services::{
    LoggedService, MAX_SERVICES, ServiceChange, ServiceFilter, ServiceList, ServiceStore,
    StoredService,
};

pub use postgres::{PostgresConfig, PostgresStore};
pub use sqlite::SqliteStore;

/// Shorthand of this room.
pub type Result<T> = std::result::Result<T, StoreError>;

/// What the coordinator keeps. Two implementations, one test-suite (`contract`).
#[async_trait]
pub trait Store: ServiceStore {
    /// Brings the schema to the version this program knows.
    ///
    /// # Errors
    /// [`StoreError::UnknownSchema`] for a database of a later or foreign version, which is left
    /// untouched.
    async fn migrate(&self) -> Result<()>;
    /// Whether [`Store::migrate`] would accept the database, without writing to it.
    ///
    /// # Errors
    /// As `migrate`.
    async fn verify_schema(&self) -> Result<()>;

    /// Answers if the store does.
    async fn ping(&self) -> Result<()>;

    // Tokens

    /// Keeps a token.
    async fn add_token(&self, token: &SessionToken) -> Result<()>;
    /// The token of this id.
    async fn token(&self, id: TokenId) -> Result<Option<SessionToken>>;

    /// Forgets tokens minted before `before` whose session has no circuit, the oldest first, at
    /// most `limit`; answers how many.
    async fn prune_tokens(&self, before: DateTime<Utc>, limit: usize) -> Result<u64>;

    // Workers

    /// Adds or updates the worker of this authority and marks it alive. `nodes` grows by one,
    /// unless the registration names a node that is counted already.
    async fn register_worker(&self, registration: &Registration) -> Result<Worker>;
    /// A sign of life of a node, by name where it gives one: `updated_at` is now, the worker is
    /// alive.
    async fn heartbeat(&self, id: WorkerId, node: Option<&str>) -> Result<Option<Worker>>;
    /// One node (by name, where it gave one) says good-bye; the worker is lost when it was the
    /// last. The row and its circuits stay.
    async fn leave_worker(&self, id: WorkerId, node: Option<&str>) -> Result<Option<Worker>>;
    /// The worker of this id.
    async fn worker(&self, id: WorkerId) -> Result<Option<Worker>>;
    /// The worker of this name.
    async fn worker_by_authority(&self, authority: &str) -> Result<Option<Worker>>;
    /// All workers, by authority.
    async fn workers(&self) -> Result<Vec<Worker>>;
    /// The filters of all workers that have any: what `registration.app_filters` said last.
    async fn app_filters(&self) -> Result<Vec<(WorkerId, AppFilter)>>;
    /// Marks alive workers without a sign of life since `silent_since` as lost; answers with
    /// those it marked.
    async fn mark_lost(&self, silent_since: DateTime<Utc>) -> Result<Vec<Worker>>;
    /// Forgets named nodes of alive workers without a sign of life since `silent_since`, and
    /// counts anew; answers how many.
    async fn forget_nodes(&self, silent_since: DateTime<Utc>) -> Result<u64>;
    /// Sets right the counters of occupied slots, which the incumbent lets drift
    /// (contract/pitfalls.md B13); answers with the workers concerned.
    async fn recount_slots(&self) -> Result<Vec<WorkerId>>;

    // Circuits

    /// Opens a circuit on a worker, or answers with one that can be reused, in one transaction.
    ///
    /// # Errors
    /// [`StoreError::PortTaken`], [`StoreError::SubdomainTaken`], [`StoreError::WorkerFull`],
    /// [`StoreError::NoSuchWorker`].
    async fn open_circuit(&self, new: &NewCircuit) -> Result<Opened>;
    /// A circuit that a request can share instead of opening its own.
    async fn reusable_circuit(&self, reuse: &Reuse) -> Result<Option<Opened>>;
    /// Closes a circuit; `None` if there is none of this id.
    async fn close_circuit(&self, id: CircuitId, cause: &Cause) -> Result<Option<Closed>>;
    /// The circuit of this id.
    async fn circuit(&self, id: CircuitId) -> Result<Option<Circuit>>;
    /// A worker's circuits and the generation they add up to, as of one moment.
    async fn worker_circuits(&self, id: WorkerId) -> Result<Option<WorkerCircuits>>;
    /// The slots that a worker's circuits hold and the generation they add up to, as of one moment.
    async fn held_slots(&self, id: WorkerId) -> Result<Option<HeldSlots>>;

    /// Closes these circuits in one transaction; those that do not exist are passed over.
    async fn close_circuits(&self, ids: &[CircuitId], cause: &Cause) -> Result<Vec<Closed>>;
    /// A session's circuits, oldest first.
    async fn session_circuits(&self, session: SessionId) -> Result<Vec<Circuit>>;

    /// The circuits that match, in the order of their keys, at most `limit`.
    async fn circuits(&self, filter: &CircuitFilter, limit: usize) -> Result<Vec<Circuit>>;
    /// Leads a circuit that is no endpoint's to another address; `None` if there is none of this
    /// id, or if it is an endpoint's.
    async fn lead_elsewhere(
        &self,
        id: CircuitId,
        host: &str,
        port: u16,
        cause: &Cause,
    ) -> Result<Option<Rerouted>>;
    /// Revokes grants of a circuit; `None` if there is none of this id.
    ///
    /// # Errors
    /// [`StoreError::ListFull`].
    async fn revoke(
        &self,
        id: CircuitId,
        revocation: &Revocation,
        cause: &Cause,
    ) -> Result<Option<Rerouted>>;
    /// Ends all that there is of a session: its circuits, its tokens, the routes of endpoints that
    /// lead to it.
    async fn end_session(&self, session: SessionId, cause: &Cause) -> Result<Ended>;

    /// Interactive circuits carried as HTTP or TCP that were opened before a moment: those with
    /// the ids after `after`, in the order of their ids, at most `limit`.
    async fn long_open(
        &self,
        opened_before: DateTime<Utc>,
        after: Option<CircuitId>,
        limit: usize,
    ) -> Result<Vec<LongOpen>>;

    /// Notes how circuits were used, as a node tells; circuits that do not exist are passed over.
    /// False if there is no such worker.
    async fn note_uses(
        &self,
        worker: WorkerId,
        node: Option<&str>,
        report: &UseReport,
    ) -> Result<bool>;
    /// What was noted of these circuits' use; nothing of those without a note.
    async fn uses(&self, ids: &[CircuitId]) -> Result<Vec<CircuitUse>>;
    /// The workers whose every node has told all it knew of uses since.
    async fn told_all_uses(&self, since: DateTime<Utc>) -> Result<Vec<WorkerId>>;

    /// Moves circuits of a lost worker to one that is alive, each to the slot it has; those whose
    /// slot is taken there stay, and all do if the workers are not what they were.
    async fn move_circuits(
        &self,
        from: WorkerId,
        to: WorkerId,
        ids: &[CircuitId],
        cause: &Cause,
    ) -> Result<Vec<Moved>>;

    // Endpoints

    /// Keeps endpoints and opens circuits for those that have none, in one transaction; answers in
    /// their order, `None` for one without a circuit, there or offered. Their ids differ.
    ///
    /// # Errors
    /// As [`Store::open_circuit`]; nothing is kept then.
    async fn open_endpoints(&self, endpoints: &[NewEndpoint]) -> Result<Vec<Option<Opened>>>;
    /// The circuits of these endpoints, oldest first.
    async fn endpoint_circuits(&self, ids: &[EndpointId]) -> Result<Vec<Circuit>>;
    /// How an endpoint's routes are to be probed; false if there is no such endpoint.
    async fn set_health_check(&self, id: EndpointId, check: Option<&HealthCheck>) -> Result<bool>;
    /// Forgets endpoints and closes their circuits; those that do not exist are passed over.
    async fn delete_endpoints(&self, ids: &[EndpointId], cause: &Cause) -> Result<Vec<Closed>>;
    /// Changes routes, one change after the other, in one transaction.
    async fn change_routes(
        &self,
        changes: &[(EndpointId, RouteChange)],
        cause: &Cause,
    ) -> Result<Rerouting>;

    // Generations and events

    /// The worker's generation: how many changes its circuits have seen.
    async fn generation(&self, worker: WorkerId) -> Result<u64>;
    /// The events after a generation, oldest first, at most `limit`. `None` if the log no longer
    /// reaches back that far: the worker has to fetch everything.
    async fn events_after(
        &self,
        worker: WorkerId,
        generation: u64,
        limit: usize,
    ) -> Result<Option<Vec<LoggedEvent>>>;
    /// Events committed before `before` and not yet published, oldest first, at most `limit`.
    async fn unpublished(&self, before: DateTime<Utc>, limit: usize) -> Result<Vec<LoggedEvent>>;
    /// Notes that these events were published.
    async fn mark_published(&self, events: &[(WorkerId, u64)]) -> Result<()>;
    /// Notes that a worker serves everything up to a generation. Never goes back.
    async fn acknowledge(&self, worker: WorkerId, generation: u64) -> Result<()>;
    /// The highest generation the worker acknowledged; 0 if none.
    async fn acknowledged(&self, worker: WorkerId) -> Result<u64>;
    /// Forgets published events committed before `before`; answers how many.
    async fn prune_events(&self, before: DateTime<Utc>) -> Result<u64>;

    // Health and figures

    /// Replaces what a node of a worker says of its routes; false if there is no such worker.
    async fn keep_report(&self, worker: WorkerId, node: &str, report: &RouteReport)
    -> Result<bool>;
    /// What nodes have said since, one report a node.
    async fn reports(&self, since: DateTime<Utc>) -> Result<Vec<NodeReport>>;
    /// What is counted in the store.
    async fn figures(&self) -> Result<Figures>;
    /// Circuits of endpoints with the ids after `after`, in the order of their ids, at most
    /// `limit`.
    async fn endpoint_page(&self, after: Option<CircuitId>, limit: usize) -> Result<Vec<Circuit>>;

    // Tunnels

    /// Settles what a gateway claims to hold, in place of what it told before (`Holdings::settle`);
    /// `None` if there is no such worker.
    async fn claim_tunnels(
        &self,
        worker: WorkerId,
        node: &str,
        claim: &Claim,
    ) -> Result<Option<Settled>>;
    /// What all gateways hold that were heard lately.
    async fn holdings(&self) -> Result<Holdings>;

    // Audit

    /// The rows of the audit that match, the newest first, at most `limit`.
    async fn audit(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<AuditEntry>>;
    /// Forgets rows written before `before`, the oldest first, at most `limit`; answers how many.
    async fn prune_audit(&self, before: DateTime<Utc>, limit: usize) -> Result<u64>;

    // Leases

    /// Takes or renews a lease for `length` from now; false while another holder has it. A store
    /// that only one coordinator can use has nobody to ask.
    async fn take_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<bool>;
    /// Gives a lease back, if it is held.
    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()>;
}
