//! What only SQLite can get wrong: files.

use crate::store::{SqliteStore, Store, StoreError};

#[tokio::test]
async fn a_file_survives_its_program_and_a_foreign_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("patchbay.db");
    let store = SqliteStore::open(&path).unwrap();
    store.verify_schema().await.unwrap();
    assert!(!path.exists(), "a check creates nothing");
    store.migrate().await.unwrap();
    store
        .register_worker(&super::registration("w"))
        .await
        .unwrap();
    drop(store);
    let again = SqliteStore::open(&path).unwrap();
    again.migrate().await.unwrap();
    assert_eq!(again.workers().await.unwrap().len(), 1);

    let later = rusqlite::Connection::open(&path).unwrap();
    later
        .execute(
            "INSERT INTO patchbay_schema_history (version, name, applied_on, checksum) \
             VALUES (99, 'later', '', '1')",
            [],
        )
        .unwrap();
    let refused = SqliteStore::open(&path)
        .unwrap()
        .migrate()
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("99"), "{refused}");

    let foreign = folder.path().join("other.db");
    let other = rusqlite::Connection::open(&foreign).unwrap();
    other.execute("CREATE TABLE stamps (id)", []).unwrap();
    for path in [foreign, folder.path().join("text.db")] {
        if !path.exists() {
            std::fs::write(&path, "this is no database, only a text of some length").unwrap();
        }
        let store = SqliteStore::open(&path).unwrap();
        for outcome in [store.verify_schema().await, store.migrate().await] {
            assert!(
                matches!(outcome, Err(StoreError::UnknownSchema { .. })),
                "{outcome:?}"
            );
        }
    }
    assert!(SqliteStore::open(folder.path().join("no/such/folder.db")).is_err());
}
