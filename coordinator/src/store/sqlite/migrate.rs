//! Bringing a file to the schema this program knows, and refusing files it did not make.

use std::path::Path;
use std::thread;
use std::time::Duration;

use refinery::{Migration, Runner};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::store::error::Doing;
use crate::store::schema::{self, Applied};
use crate::store::{Result, StoreError};

const DOING: &str = "bringing the schema up to date";
/// How often a second process is waited for that migrates the same file.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

fn known() -> Result<Vec<Migration>> {
    let known = [
        (
            "V1__base",
            include_str!("../../../migrations/sqlite/V1__base.sql"),
        ),
        (
            "V2__audit",
            include_str!("../../../migrations/sqlite/V2__audit.sql"),
        ),
        (
            "V4__route_reports",
            include_str!("../../../migrations/sqlite/V4__route_reports.sql"),
        ),
        (
            "V5__token_age",
            include_str!("../../../migrations/sqlite/V5__token_age.sql"),
        ),
        (
            "V6__uses",
            include_str!("../../../migrations/sqlite/V6__uses.sql"),
        ),
        (
            "V7__revocations",
            include_str!("../../../migrations/sqlite/V7__revocations.sql"),
        ),
        (
            "V8__services",
            include_str!("../../../migrations/sqlite/V8__services.sql"),
        ),
        (
            "V9__tunnels",
            include_str!("../../../migrations/sqlite/V9__tunnels.sql"),
        ),
    ];
    let read = |(name, sql)| Migration::unapplied(name, sql).doing(DOING);
    known.into_iter().map(read).collect()
}

/// Brings the schema up to date.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let known = known()?;
    let mut runner = Runner::new(&known).set_grouped(true);
    runner.set_migration_table_name(schema::HISTORY);
    let mut attempt = 0;
    loop {
        let current = is_current(connection, &known)?;
        let outcome = write_ahead(connection).and_then(|()| {
            if current {
                return Ok(());
            }
            runner.run(connection).map(drop).doing(DOING)
        });
        attempt += 1;
        match outcome {
            // Another process may be at the same work: what it has done is found on the next look.
            Err(_) if attempt < ATTEMPTS => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

/// Whether [`migrate`] would accept the file, which is only read. A missing file is accepted.
pub(super) fn verify_file(path: &Path) -> Result<()> {
    if !path.try_exists().doing("looking for the SQLite file")? {
        return Ok(());
    }
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .doing("opening the SQLite file")?;
    is_current(&connection, &known()?).map(drop)
}

/// Readers and the writer do not wait for one another. The mode stays with the file.
fn write_ahead(connection: &Connection) -> Result<()> {
    connection
        .pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))
        .doing(DOING)
}

fn is_current(connection: &Connection, known: &[Migration]) -> Result<bool> {
    let tables = match tables(connection) {
        Ok(tables) => tables,
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if failure.code == ErrorCode::NotADatabase =>
        {
            return Err(foreign("a file that is not an SQLite database", known));
        }
        Err(cause) => return Err(cause).doing(DOING),
    };
    if tables.is_empty() {
        return Ok(false);
    }
    if !tables.iter().any(|table| table == schema::HISTORY) {
        let found = format!("another program's tables ({})", tables.join(", "));
        return Err(foreign(&found, known));
    }
    let applied = history(connection).doing(DOING)?;
    schema::is_current(&applied, known)
}

fn foreign(found: &str, known: &[Migration]) -> StoreError {
    let latest = known.iter().map(Migration::version).max().unwrap_or(0);
    schema::unknown(found, latest, "point [db] path at a file of Patchbay's own")
}

/// Some tables of the file, enough to tell whose it is.
fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' \
             ESCAPE '\\' ORDER BY name <> 'patchbay_schema_history', name LIMIT 5",
        )?
        .query_map([], |row| row.get(0))?
        .collect()
}

fn history(connection: &Connection) -> rusqlite::Result<Vec<Applied>> {
    connection
        .prepare(schema::READ_HISTORY)?
        .query_map([], |row| {
            Ok(Applied {
                version: row.get(0)?,
                name: row.get(1)?,
                checksum: row.get(2)?,
            })
        })?
        .collect()
}
