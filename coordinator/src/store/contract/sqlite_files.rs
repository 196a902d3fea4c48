//! Files: made, kept, and refused.

use std::path::Path;

use rusqlite::Connection;

use super::port_worker;
use crate::store::{SqliteStore, Store, StoreError};

async fn refused(path: &Path, expected: &str) {
    let before = std::fs::read(path).unwrap();
    let store = SqliteStore::open(path).unwrap();
    for outcome in [store.verify_schema().await, store.migrate().await] {
        let Err(StoreError::UnknownSchema { found, fix, .. }) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(found.contains(expected), "{found}");
        assert!(!fix.is_empty());
    }
    assert_eq!(std::fs::read(path).unwrap(), before, "untouched");
}

#[tokio::test]
async fn what_is_committed_outlives_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.db");
    let first = SqliteStore::open(&path).unwrap();
    first.verify_schema().await.unwrap();
    assert!(!path.exists(), "a check makes no file");
    first.migrate().await.unwrap();
    let registration = port_worker("w", (1, 2));
    let worker = first.register_worker(&registration).await.unwrap();
    drop(first);
    let second = SqliteStore::open(&path).unwrap();
    second.verify_schema().await.unwrap();
    second.migrate().await.unwrap();
    assert_eq!(second.worker(worker.id).await.unwrap(), Some(worker));
}

#[tokio::test]
async fn a_missing_folder_is_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = SqliteStore::open(folder.path().join("nowhere/c.db"));
    assert!(matches!(refusal.err(), Some(StoreError::Failed { .. })));
}

#[tokio::test]
async fn other_programs_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("browser.db");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE workers (x)").unwrap();
    drop(other);
    refused(&path, "another program's tables (workers)").await;

    let text = folder.path().join("notes.txt");
    std::fs::write(
        &text,
        "no database, but more than a hundred bytes\n".repeat(50),
    )
    .unwrap();
    refused(&text, "not an SQLite database").await;
}

#[tokio::test]
async fn later_and_other_versions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (change, expected) in [
        (
            "INSERT INTO patchbay_schema_history VALUES (99, 'later', '2027-01-01T00:00:00Z', '1')",
            "version 99 (later)",
        ),
        (
            "UPDATE patchbay_schema_history SET checksum = '1'",
            "another wording",
        ),
    ] {
        let path = folder.path().join(expected.replace(' ', "-"));
        SqliteStore::open(&path).unwrap().migrate().await.unwrap();
        let file = Connection::open(&path).unwrap();
        file.execute_batch(change).unwrap();
        file.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))
            .unwrap();
        drop(file);
        refused(&path, expected).await;
    }
}

#[tokio::test]
async fn two_programs_can_migrate_one_file() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let path = folder.path().join(format!("{round}.db"));
        let starting: Vec<_> = (0..4)
            .map(|_| {
                let store = SqliteStore::open(&path).unwrap();
                tokio::spawn(async move { store.migrate().await })
            })
            .collect();
        for one in starting {
            one.await.unwrap().unwrap();
        }
    }
}
