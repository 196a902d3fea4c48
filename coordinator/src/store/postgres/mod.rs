//! The store in PostgreSQL: where the incumbent's database exists, or more than one coordinator
//! runs.
//!
//! Every change is a READ COMMITTED transaction that locks the rows it decides by; the worker's row
//! is locked for every allocation, as the Python coordinator does (contract/database.md §5).
//! Serialization failures and deadlocks are tried again. `wiring.rs` opens it; everybody else sees
//! `Store`.

mod allocate;
mod allot;
mod attempt;
mod audit;
mod circuits;
mod crowd;
mod endpoints;
mod events;
mod leases;
mod migrate;
mod moves;
mod pool;
mod reports;
mod revoke;
mod rows;
mod services;
mod sessions;
mod tokens;
mod tunnels;
mod uses;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use deadpool_postgres::Object;
use patchbay_common::circuit::Circuit;
use patchbay_common::grant::Revocation;
use patchbay_common::id::{CircuitId, EndpointId, SessionId, TokenId, WorkerId};
use patchbay_common::route_report::RouteReport;
use patchbay_common::tunnel::{Claim, Holdings, Settled};
use patchbay_common::use_report::{CircuitUse, UseReport};
use patchbay_common::worker::{AppFilter, Registration, Worker};
use uuid::Uuid;

use attempt::{again, change, direct, look};
use crowd::Crowds;
use pool::Pool;
pub use pool::PostgresConfig;

use super::error::Doing as _;
use super::{
    AuditEntry, AuditFilter, Cause, CircuitFilter, Closed, Ended, Figures, HealthCheck, HeldSlots,
    LoggedEvent, LongOpen, Moved, NewCircuit, NewEndpoint, NodeReport, Observer, Opened, Rerouted,
    Rerouting, Result, Reuse, RouteChange, SessionToken, Store, WorkerCircuits, fit,
};

/// The store in a PostgreSQL database.
pub struct PostgresStore {
    pool: Arc<Pool>,
    crowds: Arc<Crowds>,
}

impl PostgresStore {
    /// The store in this database. No connection is made before it is needed.
    ///
    /// # Errors
    /// [`super::StoreError::Failed`] if the pool cannot be set up.
    pub fn connect(config: PostgresConfig) -> Result<Self> {
        Ok(Self {
            pool: Arc::new(Pool::new(config)?),
            crowds: Arc::default(),
        })
    }

    /// The same store, whose every piece of work `observer` hears of.
    #[must_use]
    pub fn observed(mut self, observer: Observer) -> Self {
        let Pool { connections, .. } = &*self.pool;
        self.pool = Arc::new(Pool {
            connections: connections.clone(),
            observer: Some(observer),
        });
        self
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn migrate(&self) -> Result<()> {
        let client = self.pool.client("bringing the schema up to date").await?;
        // Out of the pool: the lock that a migration takes ends with its connection, also when
        // nobody waits for the migration any more.
        migrate::migrate(&mut Object::take(client)).await
    }

    async fn verify_schema(&self) -> Result<()> {
        let client = self.pool.client("checking the schema").await?;
        migrate::verify(&client).await
    }

    async fn ping(&self) -> Result<()> {
        const DOING: &str = "answering a ping";
        let client = self.pool.client(DOING).await?;
        client.simple_query("SELECT 1").await.map(drop).doing(DOING)
    }

    async fn add_token(&self, token: &SessionToken) -> Result<()> {
        fit::token(token)?;
        change!(self.pool, "keeping a token", |tx| tokens::add(&tx, token))
    }

    async fn token(&self, id: TokenId) -> Result<Option<SessionToken>> {
        direct!(self.pool, "reading a token", |client| tokens::get(
            &client, id
        ))
    }

    async fn prune_tokens(&self, before: DateTime<Utc>, limit: usize) -> Result<u64> {
        direct!(self.pool, "pruning tokens", |client| tokens::prune(
            &client, before, limit
        ))
    }

    async fn register_worker(&self, registration: &Registration) -> Result<Worker> {
        fit::registration(registration)?;
        change!(self.pool, "registering a worker", |tx| workers::register(
            &tx,
            registration
        ))
    }

    async fn heartbeat(&self, id: WorkerId, node: Option<&str>) -> Result<Option<Worker>> {
        fit::node(node)?;
        change!(self.pool, "noting a heartbeat", |tx| workers::heartbeat(
            &tx, id, node
        ))
    }

    async fn leave_worker(&self, id: WorkerId, node: Option<&str>) -> Result<Option<Worker>> {
        change!(self.pool, "letting a worker leave", |tx| workers::leave(
            &tx, id, node
        ))
    }

    async fn worker(&self, id: WorkerId) -> Result<Option<Worker>> {
        direct!(self.pool, "reading a worker", |client| workers::get(
            &client, id
        ))
    }

    async fn worker_by_authority(&self, authority: &str) -> Result<Option<Worker>> {
        direct!(self.pool, "reading a worker", |client| {
            workers::by_authority(&client, authority)
        })
    }

    async fn workers(&self) -> Result<Vec<Worker>> {
        direct!(self.pool, "listing workers", |client| workers::all(&client))
    }

    async fn app_filters(&self) -> Result<Vec<(WorkerId, AppFilter)>> {
        direct!(self.pool, "reading filters", |client| workers::filters(
            &client
        ))
    }

    async fn mark_lost(&self, silent_since: DateTime<Utc>) -> Result<Vec<Worker>> {
        direct!(self.pool, "marking lost workers", |client| {
            workers::mark_lost(&client, silent_since)
        })
    }

    async fn forget_nodes(&self, silent_since: DateTime<Utc>) -> Result<u64> {
        change!(self.pool, "forgetting nodes", |tx| workers::forget_nodes(
            &tx,
            silent_since
        ))
    }

    async fn recount_slots(&self) -> Result<Vec<WorkerId>> {
        change!(self.pool, "counting slots", |tx| workers::recount(&tx))
    }

    async fn open_circuit(&self, new: &NewCircuit) -> Result<Opened> {
        fit::circuit(new)?;
        self.crowds.open(&self.pool, new.clone()).await
    }

    async fn reusable_circuit(&self, reuse: &Reuse) -> Result<Option<Opened>> {
        direct!(self.pool, "looking for a circuit to share", |client| {
            circuits::reusable(&client, reuse)
        })
    }

    async fn close_circuit(&self, id: CircuitId, cause: &Cause) -> Result<Option<Closed>> {
        change!(self.pool, "closing a circuit", |tx| circuits::close(
            &tx, id, cause
        ))
    }

    async fn circuit(&self, id: CircuitId) -> Result<Option<Circuit>> {
        direct!(self.pool, "reading a circuit", |client| circuits::get(
            &client, id
        ))
    }

    async fn worker_circuits(&self, id: WorkerId) -> Result<Option<WorkerCircuits>> {
        look!(self.pool, "listing circuits", |tx| circuits::of_worker(
            &tx, id
        ))
    }

    async fn held_slots(&self, id: WorkerId) -> Result<Option<HeldSlots>> {
        look!(self.pool, "listing slots", |tx| circuits::held_slots(
            &tx, id
        ))
    }

    async fn close_circuits(&self, ids: &[CircuitId], cause: &Cause) -> Result<Vec<Closed>> {
        let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
        let key = circuits::Key::Circuit;
        change!(self.pool, "closing circuits", |tx| circuits::close_all(
            &tx, key, &ids, cause
        ))
    }

    async fn session_circuits(&self, session: SessionId) -> Result<Vec<Circuit>> {
        direct!(
            self.pool,
            "listing circuits",
            |client| circuits::of_session(&client, session)
        )
    }

    async fn circuits(&self, filter: &CircuitFilter, limit: usize) -> Result<Vec<Circuit>> {
        direct!(self.pool, "listing circuits", |client| sessions::circuits(
            &client, filter, limit
        ))
    }

    async fn lead_elsewhere(
        &self,
        id: CircuitId,
        host: &str,
        port: u16,
        cause: &Cause,
    ) -> Result<Option<Rerouted>> {
        fit::kernel_host(host)?;
        change!(self.pool, "changing routes", |tx| sessions::lead_elsewhere(
            &tx, id, host, port, cause
        ))
    }

    async fn revoke(
        &self,
        id: CircuitId,
        revocation: &Revocation,
        cause: &Cause,
    ) -> Result<Option<Rerouted>> {
        change!(self.pool, "revoking a grant", |tx| revoke::revoke(
            &tx, id, revocation, cause
        ))
    }

    async fn end_session(&self, session: SessionId, cause: &Cause) -> Result<Ended> {
        change!(self.pool, "ending a session", |tx| sessions::end(
            &tx, session, cause
        ))
    }

    async fn long_open(
        &self,
        opened_before: DateTime<Utc>,
        after: Option<CircuitId>,
        limit: usize,
    ) -> Result<Vec<LongOpen>> {
        direct!(self.pool, "listing circuits", |client| circuits::long_open(
            &client,
            opened_before,
            after,
            limit
        ))
    }

    async fn note_uses(
        &self,
        worker: WorkerId,
        node: Option<&str>,
        report: &UseReport,
    ) -> Result<bool> {
        change!(self.pool, "noting uses of circuits", |tx| uses::note(
            &tx, worker, node, report
        ))
    }

    async fn uses(&self, ids: &[CircuitId]) -> Result<Vec<CircuitUse>> {
        direct!(self.pool, "reading uses of circuits", |client| uses::of(
            &client, ids
        ))
    }

    async fn told_all_uses(&self, since: DateTime<Utc>) -> Result<Vec<WorkerId>> {
        direct!(self.pool, "reading uses of circuits", |client| {
            uses::told_all(&client, since)
        })
    }

    async fn move_circuits(
        &self,
        from: WorkerId,
        to: WorkerId,
        ids: &[CircuitId],
        cause: &Cause,
    ) -> Result<Vec<Moved>> {
        change!(self.pool, "moving circuits", |tx| moves::carry_over(
            &tx, from, to, ids, cause
        ))
    }

    async fn open_endpoints(&self, endpoints: &[NewEndpoint]) -> Result<Vec<Option<Opened>>> {
        fit::endpoints(endpoints)?;
        change!(self.pool, "keeping endpoints", |tx| endpoints::open(
            &tx, endpoints
        ))
    }

    async fn endpoint_circuits(&self, ids: &[EndpointId]) -> Result<Vec<Circuit>> {
        direct!(self.pool, "listing circuits", |client| {
            endpoints::circuits_of(&client, ids)
        })
    }

    async fn set_health_check(&self, id: EndpointId, check: Option<&HealthCheck>) -> Result<bool> {
        fit::health_check(check)?;
        change!(self.pool, "keeping a health check", |tx| {
            endpoints::set_health_check(&tx, id, check)
        })
    }

    async fn delete_endpoints(&self, ids: &[EndpointId], cause: &Cause) -> Result<Vec<Closed>> {
        change!(self.pool, "deleting endpoints", |tx| endpoints::delete(
            &tx, ids, cause
        ))
    }

    async fn change_routes(
        &self,
        changes: &[(EndpointId, RouteChange)],
        cause: &Cause,
    ) -> Result<Rerouting> {
        change!(self.pool, "changing routes", |tx| endpoints::change_routes(
            &tx, changes, cause
        ))
    }

    async fn generation(&self, worker: WorkerId) -> Result<u64> {
        direct!(self.pool, "reading a generation", |client| {
            events::generation(&client, worker)
        })
    }

    async fn events_after(
        &self,
        worker: WorkerId,
        generation: u64,
        limit: usize,
    ) -> Result<Option<Vec<LoggedEvent>>> {
        look!(self.pool, "reading events", |tx| events::after(
            &tx, worker, generation, limit
        ))
    }

    async fn unpublished(&self, before: DateTime<Utc>, limit: usize) -> Result<Vec<LoggedEvent>> {
        direct!(self.pool, "reading unpublished events", |client| {
            events::unpublished(&client, before, limit)
        })
    }

    async fn mark_published(&self, published: &[(WorkerId, u64)]) -> Result<()> {
        if published.is_empty() {
            return Ok(());
        }
        direct!(self.pool, "noting published events", |client| {
            events::mark_published(&client, published)
        })
    }

    async fn acknowledge(&self, worker: WorkerId, generation: u64) -> Result<()> {
        direct!(self.pool, "noting an acknowledgement", |client| {
            events::acknowledge(&client, worker, generation)
        })
    }

    async fn acknowledged(&self, worker: WorkerId) -> Result<u64> {
        direct!(self.pool, "reading an acknowledgement", |client| {
            events::acknowledged(&client, worker)
        })
    }

    async fn prune_events(&self, before: DateTime<Utc>) -> Result<u64> {
        direct!(self.pool, "pruning events", |client| events::prune(
            &client, before
        ))
    }

    async fn keep_report(
        &self,
        worker: WorkerId,
        node: &str,
        report: &RouteReport,
    ) -> Result<bool> {
        change!(self.pool, "keeping a report of routes", |tx| reports::keep(
            &tx, worker, node, report
        ))
    }

    async fn reports(&self, since: DateTime<Utc>) -> Result<Vec<NodeReport>> {
        direct!(self.pool, "reading reports of routes", |client| {
            reports::since(&client, since)
        })
    }

    async fn claim_tunnels(
        &self,
        worker: WorkerId,
        node: &str,
        claim: &Claim,
    ) -> Result<Option<Settled>> {
        change!(self.pool, "claiming tunnels", |tx| tunnels::claim(
            &tx,
            worker,
            node,
            claim.clone()
        ))
    }

    async fn holdings(&self) -> Result<Holdings> {
        look!(self.pool, "reading who holds tunnels", |tx| tunnels::all(
            &tx
        ))
    }

    async fn figures(&self) -> Result<Figures> {
        look!(self.pool, "counting circuits", |tx| reports::figures(&tx))
    }

    async fn endpoint_page(&self, after: Option<CircuitId>, limit: usize) -> Result<Vec<Circuit>> {
        direct!(self.pool, "listing circuits", |client| {
            reports::endpoint_page(&client, after, limit)
        })
    }

    async fn audit(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<AuditEntry>> {
        direct!(self.pool, "reading the audit", |client| audit::read(
            &client, filter, limit
        ))
    }

    async fn prune_audit(&self, before: DateTime<Utc>, limit: usize) -> Result<u64> {
        direct!(self.pool, "pruning the audit", |client| audit::prune(
            &client, before, limit
        ))
    }

    async fn take_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<bool> {
        change!(self.pool, "taking a lease", |tx| leases::take(
            &tx, name, holder, length
        ))
    }

    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()> {
        change!(self.pool, "giving a lease back", |tx| leases::release(
            &tx, name, holder
        ))
    }
}
