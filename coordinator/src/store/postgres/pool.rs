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
/// Tries of a transaction whose connection was cut.
const AFTER_CUTS: u32 = 4;
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
    pub(super) connections: Connections,
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

/// Whether another try may help: another transaction got in the way of this one, or its connection
/// was cut. After a cut nobody knows what became of a commit that was asked for, so that one is not
/// tried again.
pub(super) fn worth_another_try(error: &StoreError, attempt: u32, committing: bool) -> bool {
    let StoreError::Failed { cause, .. } = error else {
        return false;
    };
    let Some(error) = cause.downcast_ref::<tokio_postgres::Error>() else {
        return false;
    };
    let in_the_way = error.code().is_some_and(|code| {
        *code == SqlState::T_R_SERIALIZATION_FAILURE
            || *code == SqlState::T_R_DEADLOCK_DETECTED
            // What failed was sent together with this and is told elsewhere.
            || *code == SqlState::IN_FAILED_SQL_TRANSACTION
    });
    // Somebody who locks no worker took the free port first; there are others.
    let port_gone = breached(error) == Some(circuits::PORT_INDEX);
    let cut = !committing && attempt < AFTER_CUTS && is_cut(error);
    cut || (in_the_way || port_gone) && attempt < ATTEMPTS
}

/// Whether the connection broke, or the server ended it.
fn is_cut(error: &tokio_postgres::Error) -> bool {
    let ended = error.code().is_some_and(|code| {
        *code == SqlState::ADMIN_SHUTDOWN
            || *code == SqlState::CRASH_SHUTDOWN
            || *code == SqlState::CONNECTION_FAILURE
    });
    let broken = std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>());
    ended || broken || error.is_closed()
}

/// The unique constraint that a statement breached.
pub(super) fn breached(error: &tokio_postgres::Error) -> Option<&str> {
    error
        .as_db_error()
        .filter(|breach| *breach.code() == SqlState::UNIQUE_VIOLATION)
        .and_then(|breach| breach.constraint())
}

/// Waits until no other transaction does what these names name; until its end, none can. Several
/// names have to be in order, so that nobody waits for who waits for him.
pub(super) async fn take_turns(tx: &Transaction<'_>, names: &[String]) -> Result<()> {
    const DOING: &str = "waiting for another coordinator";
    let statement = tx
        .prepare_cached(
            "SELECT pg_advisory_xact_lock(hashtextextended('patchbay/' || name, 0)) \
             FROM unnest($1::text[]) AS name",
        )
        .await
        .doing(DOING)?;
    tx.execute(&statement, &[&names])
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
