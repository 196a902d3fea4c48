//! The store in one SQLite file: the embedded default of a single machine.
//!
//! There is one connection, and whoever holds it runs on a blocking thread, so requests queue in
//! front of the connection and not inside SQLite. Every change is an `IMMEDIATE` transaction, which
//! keeps a second process on the same file (a `migrate` beside a running coordinator) in line.
//! This room refuses files it did not make. `wiring.rs` opens it; everybody else sees `Store`.

mod allocate;
mod audit;
mod circuits;
mod connection;
mod endpoints;
mod events;
mod migrate;
mod moves;
mod reports;
mod revoke;
mod rows;
mod services;
mod sessions;
mod tokens;
mod tunnels;
mod uses;
mod workers;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use patchbay_common::circuit::Circuit;
use patchbay_common::grant::Revocation;
use patchbay_common::id::{CircuitId, EndpointId, SessionId, TokenId, WorkerId};
use patchbay_common::route_report::RouteReport;
use patchbay_common::timestamp;
use patchbay_common::tunnel::{Claim, Holdings, Settled};
use patchbay_common::use_report::{CircuitUse, UseReport};
use patchbay_common::worker::{AppFilter, Registration, Worker};
use uuid::Uuid;

use connection::Place;
pub use connection::SqliteStore;

use super::error::Doing as _;
use super::{
    AuditEntry, AuditFilter, Cause, CircuitFilter, Closed, Ended, Figures, HealthCheck, HeldSlots,
    LoggedEvent, LongOpen, Moved, NewCircuit, NewEndpoint, NodeReport, Opened, Rerouted, Rerouting,
    Result, Reuse, RouteChange, SessionToken, Store, WorkerCircuits, fit,
};

#[async_trait]
impl Store for SqliteStore {
    async fn migrate(&self) -> Result<()> {
        self.with("bringing the schema up to date", migrate::migrate)
            .await
            .map_err(|error| self.named(error))
    }

    async fn verify_schema(&self) -> Result<()> {
        if let Place::File(path) = &self.place {
            let path = path.clone();
            let check = tokio::task::spawn_blocking(move || migrate::verify_file(&path));
            let outcome = check.await.doing("checking the schema")?;
            return outcome.map_err(|error| self.named(error));
        }
        Ok(())
    }

    async fn ping(&self) -> Result<()> {
        self.with("answering a ping", |connection| {
            connection
                .query_row("SELECT 1", [], |_| Ok(()))
                .doing("answering a ping")
        })
        .await
    }

    async fn add_token(&self, token: &SessionToken) -> Result<()> {
        fit::token(token)?;
        let token = token.clone();
        self.change("keeping a token", move |tx| tokens::add(tx, &token))
            .await
    }

    async fn token(&self, id: TokenId) -> Result<Option<SessionToken>> {
        self.look("reading a token", move |tx| tokens::get(tx, id))
            .await
    }

    async fn prune_tokens(&self, before: DateTime<Utc>, limit: usize) -> Result<u64> {
        self.change("pruning tokens", move |tx| tokens::prune(tx, before, limit))
            .await
    }

    async fn register_worker(&self, registration: &Registration) -> Result<Worker> {
        fit::registration(registration)?;
        let registration = registration.clone();
        self.change("registering a worker", move |tx| {
            workers::register(tx, &registration)
        })
        .await
    }

    async fn heartbeat(&self, id: WorkerId, node: Option<&str>) -> Result<Option<Worker>> {
        fit::node(node)?;
        let node = node.map(str::to_owned);
        self.change("noting a heartbeat", move |tx| {
            workers::heartbeat(tx, id, node.as_deref())
        })
        .await
    }

    async fn leave_worker(&self, id: WorkerId, node: Option<&str>) -> Result<Option<Worker>> {
        let node = node.map(str::to_owned);
        self.change("letting a worker leave", move |tx| {
            workers::leave(tx, id, node.as_deref())
        })
        .await
    }

    async fn worker(&self, id: WorkerId) -> Result<Option<Worker>> {
        self.look("reading a worker", move |tx| workers::get(tx, id))
            .await
    }

    async fn worker_by_authority(&self, authority: &str) -> Result<Option<Worker>> {
        let authority = authority.to_owned();
        self.look("reading a worker", move |tx| {
            workers::by_authority(tx, &authority)
        })
        .await
    }

    async fn workers(&self) -> Result<Vec<Worker>> {
        self.look("listing workers", workers::all).await
    }

    async fn app_filters(&self) -> Result<Vec<(WorkerId, AppFilter)>> {
        self.look("reading filters", workers::filters).await
    }

    async fn mark_lost(&self, silent_since: DateTime<Utc>) -> Result<Vec<Worker>> {
        self.change("marking lost workers", move |tx| {
            workers::mark_lost(tx, silent_since)
        })
        .await
    }

    async fn forget_nodes(&self, silent_since: DateTime<Utc>) -> Result<u64> {
        self.change("forgetting nodes", move |tx| {
            workers::forget_nodes(tx, silent_since)
        })
        .await
    }

    async fn recount_slots(&self) -> Result<Vec<WorkerId>> {
        self.change("counting slots", workers::recount).await
    }

    async fn open_circuit(&self, new: &NewCircuit) -> Result<Opened> {
        fit::circuit(new)?;
        let new = new.clone();
        self.change("opening a circuit", move |tx| circuits::open(tx, &new))
            .await
    }

    async fn reusable_circuit(&self, reuse: &Reuse) -> Result<Option<Opened>> {
        let reuse = reuse.clone();
        self.look("looking for a circuit to share", move |tx| {
            circuits::reusable(tx, &reuse)
        })
        .await
    }

    async fn close_circuit(&self, id: CircuitId, cause: &Cause) -> Result<Option<Closed>> {
        let cause = cause.clone();
        self.change("closing a circuit", move |tx| {
            circuits::close(tx, id, &cause)
        })
        .await
    }

    async fn circuit(&self, id: CircuitId) -> Result<Option<Circuit>> {
        self.look("reading a circuit", move |tx| circuits::get(tx, id))
            .await
    }

    async fn worker_circuits(&self, id: WorkerId) -> Result<Option<WorkerCircuits>> {
        self.look("listing circuits", move |tx| circuits::of_worker(tx, id))
            .await
    }

    async fn held_slots(&self, id: WorkerId) -> Result<Option<HeldSlots>> {
        self.look("listing slots", move |tx| circuits::held_slots(tx, id))
            .await
    }

    async fn close_circuits(&self, ids: &[CircuitId], cause: &Cause) -> Result<Vec<Closed>> {
        let (ids, cause) = (ids.to_vec(), cause.clone());
        self.change("closing circuits", move |tx| {
            circuits::close_all(tx, &ids, &cause)
        })
        .await
    }

    async fn session_circuits(&self, session: SessionId) -> Result<Vec<Circuit>> {
        self.look("listing circuits", move |tx| {
            circuits::of_session(tx, session)
        })
        .await
    }

    async fn circuits(&self, filter: &CircuitFilter, limit: usize) -> Result<Vec<Circuit>> {
        let filter = filter.clone();
        self.look("listing circuits", move |tx| {
            sessions::circuits(tx, &filter, limit)
        })
        .await
    }

    async fn lead_elsewhere(
        &self,
        id: CircuitId,
        host: &str,
        port: u16,
        cause: &Cause,
    ) -> Result<Option<Rerouted>> {
        fit::kernel_host(host)?;
        let (host, cause) = (host.to_owned(), cause.clone());
        self.change("changing routes", move |tx| {
            sessions::lead_elsewhere(tx, id, &host, port, &cause)
        })
        .await
    }

    async fn revoke(
        &self,
        id: CircuitId,
        revocation: &Revocation,
        cause: &Cause,
    ) -> Result<Option<Rerouted>> {
        let (revocation, cause) = (revocation.clone(), cause.clone());
        self.change("revoking a grant", move |tx| {
            revoke::revoke(tx, id, &revocation, &cause)
        })
        .await
    }

    async fn end_session(&self, session: SessionId, cause: &Cause) -> Result<Ended> {
        let cause = cause.clone();
        self.change("ending a session", move |tx| {
            sessions::end(tx, session, &cause)
        })
        .await
    }

    async fn long_open(
        &self,
        opened_before: DateTime<Utc>,
        after: Option<CircuitId>,
        limit: usize,
    ) -> Result<Vec<LongOpen>> {
        self.look("listing circuits", move |tx| {
            circuits::long_open(tx, opened_before, after, limit)
        })
        .await
    }

    async fn note_uses(
        &self,
        worker: WorkerId,
        node: Option<&str>,
        report: &UseReport,
    ) -> Result<bool> {
        let (node, report) = (node.map(str::to_owned), report.clone());
        self.change("noting uses of circuits", move |tx| {
            uses::note(tx, worker, node.as_deref(), &report)
        })
        .await
    }

    async fn uses(&self, ids: &[CircuitId]) -> Result<Vec<CircuitUse>> {
        let ids = ids.to_vec();
        self.look("reading uses of circuits", move |tx| uses::of(tx, &ids))
            .await
    }

    async fn told_all_uses(&self, since: DateTime<Utc>) -> Result<Vec<WorkerId>> {
        self.look("reading uses of circuits", move |tx| {
            uses::told_all(tx, since)
        })
        .await
    }

    async fn move_circuits(
        &self,
        from: WorkerId,
        to: WorkerId,
        ids: &[CircuitId],
        cause: &Cause,
    ) -> Result<Vec<Moved>> {
        let (ids, cause) = (ids.to_vec(), cause.clone());
        self.change("moving circuits", move |tx| {
            moves::carry_over(tx, from, to, &ids, &cause)
        })
        .await
    }

    async fn open_endpoints(&self, endpoints: &[NewEndpoint]) -> Result<Vec<Option<Opened>>> {
        fit::endpoints(endpoints)?;
        let endpoints = endpoints.to_vec();
        self.change("keeping endpoints", move |tx| {
            endpoints::open(tx, &endpoints)
        })
        .await
    }

    async fn endpoint_circuits(&self, ids: &[EndpointId]) -> Result<Vec<Circuit>> {
        let ids = ids.to_vec();
        self.look("listing circuits", move |tx| {
            endpoints::circuits_of(tx, &ids)
        })
        .await
    }

    async fn set_health_check(&self, id: EndpointId, check: Option<&HealthCheck>) -> Result<bool> {
        fit::health_check(check)?;
        let check = check.cloned();
        self.change("keeping a health check", move |tx| {
            endpoints::set_health_check(tx, id, check.as_ref())
        })
        .await
    }

    async fn delete_endpoints(&self, ids: &[EndpointId], cause: &Cause) -> Result<Vec<Closed>> {
        let (ids, cause) = (ids.to_vec(), cause.clone());
        self.change("deleting endpoints", move |tx| {
            endpoints::delete(tx, &ids, &cause)
        })
        .await
    }

    async fn change_routes(
        &self,
        changes: &[(EndpointId, RouteChange)],
        cause: &Cause,
    ) -> Result<Rerouting> {
        let (changes, cause) = (changes.to_vec(), cause.clone());
        self.change("changing routes", move |tx| {
            endpoints::change_routes(tx, &changes, &cause)
        })
        .await
    }

    async fn generation(&self, worker: WorkerId) -> Result<u64> {
        self.look("reading a generation", move |tx| {
            events::generation(tx, worker)
        })
        .await
    }

    async fn events_after(
        &self,
        worker: WorkerId,
        generation: u64,
        limit: usize,
    ) -> Result<Option<Vec<LoggedEvent>>> {
        self.look("reading events", move |tx| {
            events::after(tx, worker, generation, limit)
        })
        .await
    }

    async fn unpublished(&self, before: DateTime<Utc>, limit: usize) -> Result<Vec<LoggedEvent>> {
        self.look("reading unpublished events", move |tx| {
            events::unpublished(tx, before, limit)
        })
        .await
    }

    async fn mark_published(&self, events: &[(WorkerId, u64)]) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let events = events.to_vec();
        self.change("noting published events", move |tx| {
            events::mark_published(tx, &events)
        })
        .await
    }

    async fn acknowledge(&self, worker: WorkerId, generation: u64) -> Result<()> {
        self.change("noting an acknowledgement", move |tx| {
            events::acknowledge(tx, worker, generation)
        })
        .await
    }

    async fn acknowledged(&self, worker: WorkerId) -> Result<u64> {
        self.look("reading an acknowledgement", move |tx| {
            events::acknowledged(tx, worker)
        })
        .await
    }

    async fn prune_events(&self, before: DateTime<Utc>) -> Result<u64> {
        self.change("pruning events", move |tx| events::prune(tx, before))
            .await
    }

    async fn keep_report(
        &self,
        worker: WorkerId,
        node: &str,
        report: &RouteReport,
    ) -> Result<bool> {
        let (node, report) = (node.to_owned(), report.clone());
        self.change("keeping a report of routes", move |tx| {
            reports::keep(tx, worker, &node, &report)
        })
        .await
    }

    async fn reports(&self, since: DateTime<Utc>) -> Result<Vec<NodeReport>> {
        self.look("reading reports of routes", move |tx| {
            reports::since(tx, since)
        })
        .await
    }

    async fn claim_tunnels(
        &self,
        worker: WorkerId,
        node: &str,
        claim: &Claim,
    ) -> Result<Option<Settled>> {
        let (node, claim) = (node.to_owned(), claim.clone());
        self.change("claiming tunnels", move |tx| {
            tunnels::claim(tx, worker, &node, claim)
        })
        .await
    }

    async fn holdings(&self) -> Result<Holdings> {
        self.look("reading who holds tunnels", |tx| {
            tunnels::all(tx, timestamp::now())
        })
        .await
    }

    async fn figures(&self) -> Result<Figures> {
        self.look("counting circuits", reports::figures).await
    }

    async fn endpoint_page(&self, after: Option<CircuitId>, limit: usize) -> Result<Vec<Circuit>> {
        self.look("listing circuits", move |tx| {
            reports::endpoint_page(tx, after, limit)
        })
        .await
    }

    async fn audit(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<AuditEntry>> {
        let filter = filter.clone();
        self.look("reading the audit", move |tx| {
            audit::read(tx, &filter, limit)
        })
        .await
    }

    async fn prune_audit(&self, before: DateTime<Utc>, limit: usize) -> Result<u64> {
        self.change("pruning the audit", move |tx| {
            audit::prune(tx, before, limit)
        })
        .await
    }

    async fn take_lease(&self, _: &str, _: Uuid, _: Duration) -> Result<bool> {
        Ok(true)
    }

    async fn release_lease(&self, _: &str, _: Uuid) -> Result<()> {
        Ok(())
    }
}
