//! What only PostgreSQL can get wrong: take-over, refusals, and several coordinators at once.

use std::collections::HashSet;
use std::sync::Arc;

use patchbay_common::worker::Registration;
use tokio::task::JoinSet;

use super::{assert_slots_are_unique, circuit, connect, database, registration, shared};
use crate::store::{SlotWish, Store, StoreError};

const CIRCUIT: &str = "0b9e6f4e-2a52-4a0c-9d0d-3a1f6a5f9b10";
const WORKER: &str = "712d01fd-c0b7-4c7a-a071-34b8db1270ba";

/// Schema and rows as the incumbent leaves them behind: times and envs may be null, routes may be
/// encoded twice, the newer labels of the protocol may be missing.
fn incumbent(migrated: bool) -> String {
    let base = include_str!("../../../migrations/postgres/base.sql");
    let base = if migrated {
        base.replace(", 'PREOPEN', 'VNC', 'RDP'", "")
    } else {
        base.replace("timestamptz NOT NULL", "timestamptz")
            .replace("CONSTRAINT alembic_version_pkc PRIMARY KEY", "")
    };
    format!(
        r#"{base}
        INSERT INTO workers (id, authority, frontend_mode, protocol, hostname, api_port,
          available_slots, occupied_slots, port_range, nodes, accepted_traffics,
          filtered_apps_only, status)
        VALUES ('{WORKER}', 'old', 'PORT', 'HTTP', 'h', 1, 5, 3, '{{10205,10209}}', 1,
          '{{INTERACTIVE}}', false, 'ALIVE');
        INSERT INTO circuits (id, app, protocol, worker, app_mode, frontend_mode, port, envs,
          open_to_public, session_ids, route_info)
        VALUES ('{CIRCUIT}', 'jupyter', 'HTTP', '{WORKER}', 'INTERACTIVE', 'PORT', 10205, '{{}}',
          false, '{{}}', to_jsonb('[{{"session-id": "{CIRCUIT}", "kernel-port": 5,
          "health_status": "x"}}]'::text));
        "#
    )
}

#[tokio::test]
async fn the_incumbents_database_is_taken_over_and_still_serves_it() {
    for migrated in [false, true] {
        let database = database().await;
        let client = database.connect().await.unwrap();
        client.batch_execute(&incumbent(migrated)).await.unwrap();
        let store = connect(&database);
        store.verify_schema().await.unwrap();
        store.migrate().await.unwrap();
        store.migrate().await.unwrap();

        let worker = store.worker_by_authority("old").await.unwrap().unwrap();
        assert_eq!(worker.occupied_slots, 1, "counted, not believed");
        let kept = store
            .circuit(CIRCUIT.parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(kept.route_info[0].kernel_port, 5);
        let opened = store
            .open_circuit(&circuit(worker.id, SlotWish::AnyPort))
            .await
            .unwrap();
        assert_eq!(opened.circuit.port, Some(10_206));

        // The incumbent goes on writing rows as it knows them.
        client
            .batch_execute(&format!(
                "INSERT INTO circuits (id, app, protocol, worker, app_mode, frontend_mode, port, \
                 envs, open_to_public, session_ids, route_info) VALUES (uuid_generate_v4(), 'x', \
                 'HTTP', '{WORKER}', 'INTERACTIVE', 'PORT', 10207, '{{}}', false, '{{}}', '[]')"
            ))
            .await
            .unwrap();
        let next = store
            .open_circuit(&circuit(worker.id, SlotWish::AnyPort))
            .await
            .unwrap();
        assert_eq!(next.circuit.port, Some(10_208));
        let revision = client
            .query_one("SELECT version_num FROM alembic_version", &[])
            .await;
        assert_eq!(revision.unwrap().get::<_, String>(0), "a1b2c3d4e5f6");
    }
}

#[tokio::test]
async fn unknown_databases_are_refused_untouched() {
    for (statements, named) in [
        ("CREATE TABLE circuits (id int)", "circuits"),
        ("CREATE TABLE stamps (id int)", "stamps"),
        (
            "CREATE TABLE alembic_version (version_num text); \
             INSERT INTO alembic_version VALUES ('ffff00000000')",
            "ffff00000000",
        ),
    ] {
        let database = database().await;
        let client = database.connect().await.unwrap();
        client.batch_execute(statements).await.unwrap();
        let store = connect(&database);
        for outcome in [store.verify_schema().await, store.migrate().await] {
            let Err(StoreError::UnknownSchema { found, .. }) = outcome else {
                panic!("{outcome:?}");
            };
            assert!(found.contains(named), "{found}");
        }
        let count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
        let tables: i64 = client.query_one(count, &[]).await.unwrap().get(0);
        assert_eq!(tables, 1);
    }
}

#[tokio::test]
async fn a_later_version_is_refused() {
    let database = database().await;
    let store = connect(&database);
    store.migrate().await.unwrap();
    let client = database.connect().await.unwrap();
    client
        .batch_execute(
            "INSERT INTO patchbay_schema_history (version, name, applied_on, checksum) \
             VALUES (99, 'later', '', '1')",
        )
        .await
        .unwrap();
    let refused = store.migrate().await.unwrap_err();
    assert!(refused.to_string().contains("99"), "{refused}");
}

#[tokio::test]
async fn two_coordinators_may_start_at_once() {
    let database = database().await;
    let (one, two) = (connect(&database), connect(&database));
    let (first, second) = tokio::join!(one.migrate(), two.migrate());
    first.unwrap();
    second.unwrap();
    assert!(one.workers().await.unwrap().is_empty());
}

#[tokio::test]
async fn two_hundred_openings_at_once_get_two_hundred_ports() {
    let database = database().await;
    let stores = [Arc::new(connect(&database)), Arc::new(connect(&database))];
    stores[0].migrate().await.unwrap();
    let wide = Registration {
        port_range: Some((20_000, 20_199)),
        ..registration("w")
    };
    let worker = stores[0].register_worker(&wide).await.unwrap();
    let mut openings = JoinSet::new();
    for index in 0..200 {
        let store = Arc::clone(&stores[index % 2]);
        let new = circuit(worker.id, SlotWish::AnyPort);
        openings.spawn(async move { store.open_circuit(&new).await });
    }
    let mut generations = HashSet::new();
    while let Some(opened) = openings.join_next().await {
        generations.insert(opened.unwrap().unwrap().generation);
    }
    assert_eq!(generations.len(), 200);
    assert_eq!(assert_slots_are_unique(&*stores[1], worker.id).await, 200);
    let full = stores[0]
        .open_circuit(&circuit(worker.id, SlotWish::AnyPort))
        .await;
    assert!(matches!(full, Err(StoreError::WorkerFull(_))));
}

#[tokio::test]
async fn openers_of_one_app_at_once_share_one_circuit() {
    let database = database().await;
    let stores = [Arc::new(connect(&database)), Arc::new(connect(&database))];
    stores[0].migrate().await.unwrap();
    let worker = stores[0].register_worker(&registration("w")).await.unwrap();
    let new = shared(circuit(worker.id, SlotWish::AnyPort));
    let mut openings = JoinSet::new();
    for index in 0..10 {
        let store = Arc::clone(&stores[index % 2]);
        let mut new = new.clone();
        new.id = patchbay_common::id::CircuitId::random();
        openings.spawn(async move { store.open_circuit(&new).await });
    }
    let mut circuits = HashSet::new();
    while let Some(opened) = openings.join_next().await {
        circuits.insert(opened.unwrap().unwrap().circuit.id);
    }
    assert_eq!(circuits.len(), 1);
}
