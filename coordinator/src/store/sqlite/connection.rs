//! The one connection, and how work gets its turn on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::Mutex;

use crate::store::error::Doing;
use crate::store::{Observer, Result, StoreError};

/// How long a statement waits for another process to let go of the file.
const BUSY: Duration = Duration::from_secs(5);
/// Prepared statements kept; all of this room's fit.
const STATEMENTS: usize = 64;

/// The store in a file, or in memory.
pub struct SqliteStore {
    pub(super) place: Place,
    /// Opened at the first use, so that a check of the configuration creates no file.
    connection: Arc<Mutex<Option<Connection>>>,
    observer: Option<Observer>,
}

#[derive(Clone)]
pub(super) enum Place {
    Memory,
    File(PathBuf),
}

impl SqliteStore {
    /// The store in this file, which [`crate::store::Store::migrate`] creates if it is missing.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the folder of the file does not exist.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let folder = match path.parent() {
            None => Path::new("/"),
            Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
            Some(folder) => folder,
        };
        std::fs::read_dir(folder).doing("looking for the folder of the SQLite file")?;
        Ok(Self::at(Place::File(path)))
    }

    /// A store that ends with the program.
    pub fn in_memory() -> Self {
        Self::at(Place::Memory)
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            connection: Arc::default(),
            observer: None,
        }
    }

    /// The same store, whose every piece of work `observer` hears of.
    #[must_use]
    pub fn observed(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Names the file in a refusal of what it holds.
    pub(super) fn named(&self, error: StoreError) -> StoreError {
        match (error, &self.place) {
            (StoreError::UnknownSchema { found, known, fix }, Place::File(path)) => {
                let found = format!("{found} in {}", path.display());
                StoreError::UnknownSchema { found, known, fix }
            }
            (error, _) => error,
        }
    }

    /// Runs `work` with the connection, on a blocking thread.
    pub(super) async fn with<T, F>(&self, doing: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    {
        let started = std::time::Instant::now();
        let place = self.place.clone();
        let mut slot = Arc::clone(&self.connection).lock_owned().await;
        let task = tokio::task::spawn_blocking(move || match slot.as_mut() {
            Some(connection) => work(connection),
            None => work(slot.insert(connect(&place)?)),
        });
        let outcome = task.await.doing(doing)?;
        if let Some(observer) = &self.observer {
            observer(doing, started.elapsed(), outcome.is_ok());
        }
        outcome
    }

    /// Runs `work` in a transaction that writes.
    pub(super) async fn change<T, F>(&self, doing: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        self.transact(doing, TransactionBehavior::Immediate, work)
            .await
    }

    /// Runs `work` in a transaction that sees one moment.
    pub(super) async fn look<T, F>(&self, doing: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        self.transact(doing, TransactionBehavior::Deferred, work)
            .await
    }

    async fn transact<T, F>(
        &self,
        doing: &'static str,
        behavior: TransactionBehavior,
        work: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        self.with(doing, move |connection| {
            let tx = connection
                .transaction_with_behavior(behavior)
                .doing(doing)?;
            let answer = work(&tx)?;
            tx.commit().doing(doing)?;
            Ok(answer)
        })
        .await
    }
}

fn connect(place: &Place) -> Result<Connection> {
    const OPENING: &str = "opening the SQLite file";
    let connection = match place {
        Place::Memory => Connection::open_in_memory(),
        Place::File(path) => Connection::open(path),
    }
    .doing(OPENING)?;
    connection.busy_timeout(BUSY).doing(OPENING)?;
    connection
        .pragma_update(None, "foreign_keys", true)
        .doing(OPENING)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}
