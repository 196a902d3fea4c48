//! Connections and transactions.

use std::time::Duration;

use deadpool_postgres::{
    Client, Manager, ManagerConfig, Object, Pool as Connections, RecyclingMethod, Runtime,
    Transaction,
};
use patchbay_common::config::Secret;
use tokio_postgres::error::SqlState;
use tokio_postgres::{IsolationLevel, NoTls};
use uuid::Uuid;

use super::circuits;
use crate::store::error::Doing;
use crate::store::{Observer, Result, StoreError};

/// Patience with the server: for a connection of the pool, and for a new one.
const PATIENCE: Duration = Duration::from_secs(5);
/// Tries of a transaction that others got in the way of.
const ATTEMPTS: u32 = 10;
/// Pause before the second try; it doubles up to a second.
const PAUSE_MS: u64 = 5;

/// Where the database is.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Host or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Name of the database.
    pub name: String,
    /// User to log in as.
    pub user: String,
    /// The user's password.
    pub password: Secret,
    /// Most connections at once.
    pub pool_size: usize,
}

pub(super) struct Pool {
    connections: Connections,
    pub(super) observer: Option<Observer>,
}

impl Pool {
    pub(super) fn new(config: PostgresConfig) -> Result<Self> {
        let mut server = tokio_postgres::Config::new();
        server
            .host(&config.host)
            .port(config.port)
            .dbname(&config.name)
            .user(&config.user)
            .password(config.password.expose())
            .application_name("patchbay-coordinator")
            .connect_timeout(PATIENCE)
            .keepalives_idle(Duration::from_secs(30))
            // As the incumbent sets them (contract/database.md §5): nothing waits for ever.
            .options("-c lock_timeout=60000 -c idle_in_transaction_session_timeout=60000");
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(server, NoTls, ManagerConfig { recycling_method });
        let connections = Connections::builder(manager)
            .max_size(config.pool_size.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(PATIENCE))
            .create_timeout(Some(PATIENCE))
            .recycle_timeout(Some(PATIENCE))
            .build()
            .doing("setting up the pool of connections")?;
        Ok(Self {
            connections,
            observer: None,
        })
    }

    /// Tells the observer of a piece of work.
    pub(super) fn observe(&self, doing: &'static str, took: Duration, done: bool) {
        if let Some(observer) = &self.observer {
            observer(doing, took, done);
        }
    }

    /// A connection of the pool.
    pub(super) async fn client(&self, doing: &'static str) -> Result<Object> {
        self.connections.get().await.doing(doing)
    }
}

/// What a transaction may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// It sees one moment and writes nothing.
    Read,
    /// It writes, and sees what others commit meanwhile.
    Write,
}

/// Begins a transaction.
pub(super) async fn begin<'a>(
    client: &'a mut Client,
    doing: &'static str,
    access: Access,
) -> Result<Transaction<'a>> {
    let level = match access {
        Access::Read => IsolationLevel::RepeatableRead,
        Access::Write => IsolationLevel::ReadCommitted,
    };
    client
        .build_transaction()
        .isolation_level(level)
        .read_only(access == Access::Read)
        .start()
        .await
        .doing(doing)
}

/// Whether another try may help: another transaction got in the way of this one.
pub(super) fn worth_another_try(error: &StoreError, attempt: u32) -> bool {
    let StoreError::Failed { cause, .. } = error else {
        return false;
    };
    let Some(error) = cause.downcast_ref::<tokio_postgres::Error>() else {
        return false;
    };
    let in_the_way = error.code().is_some_and(|code| {
        *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED
    });
    // Somebody who locks no worker took the free port first; there are others.
    let port_gone = breached(error) == Some(circuits::PORT_INDEX);
    (in_the_way || port_gone) && attempt < ATTEMPTS
}

/// The unique constraint that a statement breached.
pub(super) fn breached(error: &tokio_postgres::Error) -> Option<&str> {
    error
        .as_db_error()
        .filter(|breach| *breach.code() == SqlState::UNIQUE_VIOLATION)
        .and_then(|breach| breach.constraint())
}

/// Waits until no other transaction does what this name names; until its end, none can.
pub(super) async fn take_turns(tx: &Transaction<'_>, name: &str) -> Result<()> {
    const DOING: &str = "waiting for another coordinator";
    let statement = tx
        .prepare_cached("SELECT pg_advisory_xact_lock(hashtextextended('patchbay/' || $1, 0))")
        .await
        .doing(DOING)?;
    tx.execute(&statement, &[&name])
        .await
        .map(drop)
        .doing(DOING)
}

/// Waits before the next try: doubling, with jitter, so that those who met do not meet again.
pub(super) async fn pause(doing: &str, error: &StoreError, attempt: u32) {
    log::debug!("{doing}: tried again after {error}");
    let base = PAUSE_MS << attempt.min(7);
    let jitter = u64::from(Uuid::new_v4().as_fields().1) % base;
    tokio::time::sleep(Duration::from_millis(base + jitter)).await;
}
