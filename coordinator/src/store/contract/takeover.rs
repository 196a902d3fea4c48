//! What only PostgreSQL can show: the incumbent's databases, taken over or refused.

use std::sync::Arc;

use patchbay_common::circuit::Protocol;
use patchbay_common::worker::WorkerStatus;
use patchbay_tests::postgres::Database;
use tokio_postgres::Client;

use super::{circuit_on, connect, nobody, open, port_worker, subdomain, wildcard_worker};
use crate::store::{SlotWish, Store, StoreError};

const CIRCUIT: &str = "0b9e6f4e-2a52-4a0c-9d0d-3a1f6a5f9b10";
const ENDPOINT_CIRCUIT: &str = "a5eb70a6-95e7-4e65-83ba-141a8a19b823";
const WORKER: &str = "712d01fd-c0b7-4c7a-a071-34b8db1270ba";
const NAMES: &str = "b68260a3-7e2c-41ff-9a2f-d14877d189aa";

/// How a database of the incumbent's came to be (contract/database.md): its tables made in one go
/// from the models, or by one migration after another.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Oneshot,
    Migrated,
}

/// Schema and rows as the incumbent leaves them behind: times may be null, routes may be encoded
/// twice or carry keys of old releases, the newer labels of the protocol may be missing.
fn incumbent(form: Form) -> String {
    let base = include_str!("../../../migrations/postgres/base.sql");
    let base = match form {
        Form::Migrated => base.replace(", 'PREOPEN', 'VNC', 'RDP'", ""),
        Form::Oneshot => base
            .replace(
                "timestamptz NOT NULL DEFAULT now()",
                "timestamptz DEFAULT now()",
            )
            .replace("boolean NOT NULL DEFAULT false", "boolean NOT NULL")
            .replace("NOT NULL DEFAULT 'ALIVE'", "NOT NULL")
            .replace(
                "varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY",
                "varchar(32)",
            ),
    };
    format!(
        r#"{base}
        INSERT INTO workers (id, authority, frontend_mode, protocol, hostname, tls_listen,
          tls_advertised, api_port, available_slots, occupied_slots, port_range, wildcard_domain,
          nodes, accepted_traffics, filtered_apps_only, status)
        VALUES ('{WORKER}', 'old', 'PORT', 'HTTP', 'h', false, false, 1, 5, 3, '{{10205,10209}}',
            NULL, 4, '{{INTERACTIVE}}', false, 'ALIVE'),
          ('{NAMES}', 'names', 'WILDCARD_DOMAIN', 'HTTP', 'h', false, false, 1, -1, 1, NULL,
            '.app.local', 1, '{{INFERENCE,INTERACTIVE}}', false, 'LOST');
        INSERT INTO circuits (id, app, protocol, worker, app_mode, frontend_mode, port, subdomain,
          envs, open_to_public, session_ids, route_info)
        VALUES ('{CIRCUIT}', 'jupyter', 'HTTP', '{WORKER}', 'INTERACTIVE', 'PORT', 10205, NULL,
            NULL, false, '{{{CIRCUIT}}}', to_jsonb('[{{"session-id": "{CIRCUIT}", "kernel-host":
            null, "kernel-port": 5, "protocol": "vnc", "health_status": "x"}}]'::text)),
          ('{ENDPOINT_CIRCUIT}', 'llm', 'HTTP', '{NAMES}', 'INFERENCE', 'WILDCARD_DOMAIN', NULL,
            'llm', '{{}}', false, '{{}}', '[]');
        "#
    )
}

async fn incumbents_database(form: Form) -> (Database, Client) {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(&incumbent(form)).await.unwrap();
    if form == Form::Oneshot {
        let forget = "UPDATE circuits SET created_at = NULL, updated_at = NULL";
        client.batch_execute(forget).await.unwrap();
    }
    (database, client)
}

async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn the_incumbents_databases_are_taken_over() {
    for form in [Form::Oneshot, Form::Migrated] {
        let (database, client) = incumbents_database(form).await;
        let store = connect(&database);
        store.verify_schema().await.unwrap();
        let tables = "SELECT count(*)::text FROM pg_tables WHERE schemaname = 'public'";
        assert_eq!(text(&client, tables).await, "6", "a check changes nothing");
        store.migrate().await.unwrap();
        store.migrate().await.unwrap();
        store.verify_schema().await.unwrap();
        let revision = "SELECT string_agg(version_num, ',') FROM alembic_version";
        assert_eq!(text(&client, revision).await, "a1b2c3d4e5f6");

        store.recount_slots().await.unwrap();
        let worker = store.worker_by_authority("old").await.unwrap().unwrap();
        assert_eq!(worker.occupied_slots, 1, "counted, not believed");
        assert_eq!((worker.nodes, worker.status), (4, WorkerStatus::Alive));
        let id = CIRCUIT.parse().unwrap();
        let kept = store.circuit(id).await.unwrap().unwrap();
        assert_eq!(kept.route_info[0].kernel_port, 5);
        assert_eq!(kept.route_info[0].protocol, Protocol::Vnc);
        assert!(kept.envs.is_empty());
        let held = store.worker_circuits(worker.id).await.unwrap().unwrap();
        assert_eq!(
            (held.circuits.as_slice(), held.generation),
            (&[kept][..], 0)
        );
        let closed = store.close_circuit(id, &nobody()).await.unwrap().unwrap();
        assert_eq!(closed.generation, 1);

        let named = patchbay_common::worker::Registration {
            node_id: Some("one".to_owned()),
            ..port_worker("old", (10205, 10209))
        };
        let again = store.register_worker(&named).await.unwrap();
        assert_eq!((again.id, again.nodes), (worker.id, 1), "the drift is over");
    }
}

#[tokio::test]
async fn the_incumbent_can_go_on_beside_us() {
    for form in [Form::Oneshot, Form::Migrated] {
        let (database, client) = incumbents_database(form).await;
        let store = connect(&database);
        store.migrate().await.unwrap();
        let worker = store.worker_by_authority("old").await.unwrap().unwrap();
        let mut new = circuit_on(worker.id, SlotWish::AnyPort);
        new.protocol = Protocol::Rdp;
        let opened = store.open_circuit(&new).await.unwrap();
        assert_eq!(opened.circuit.port, Some(10206));

        // Our row is in the forms that it reads, its own rows are respected.
        let id = opened.circuit.id;
        let forms = format!(
            "SELECT concat_ws(' ', jsonb_typeof(envs), jsonb_typeof(route_info), protocol, \
             frontend_mode, array_length(session_ids, 1)) FROM circuits WHERE id = '{id}'"
        );
        assert_eq!(text(&client, &forms).await, "object array TCP PORT 1");
        let insert = |port: u16| {
            format!(
                "INSERT INTO circuits (id, app, protocol, worker, app_mode, frontend_mode, port, \
                 envs, open_to_public, session_ids, route_info) VALUES (uuid_generate_v4(), 'x', \
                 'HTTP', '{WORKER}', 'INTERACTIVE', 'PORT', {port}, '{{}}', false, '{{}}', '[]')"
            )
        };
        client.batch_execute(&insert(10207)).await.unwrap();
        let next = open(&store, &worker, SlotWish::AnyPort).await.unwrap();
        assert_eq!(next.circuit.port, Some(10208));
        client.batch_execute(&insert(10208)).await.unwrap_err();

        // Its subdomains are taken too, for every worker of the domain.
        let beside = wildcard_worker("beside", ".APP.local");
        let beside = store.register_worker(&beside).await.unwrap();
        let refusal = open(&store, &beside, subdomain("llm")).await;
        assert!(matches!(refusal, Err(StoreError::SubdomainTaken { .. })));
        let slots = format!("SELECT occupied_slots::text FROM workers WHERE id = '{WORKER}'");
        assert_eq!(
            text(&client, &slots).await,
            "5",
            "3 it wrote, and 2 of ours"
        );
    }
}

#[tokio::test]
async fn a_port_taken_without_a_lock_is_no_reason_to_fail() {
    let database = Database::create().await.unwrap();
    let store = Arc::new(connect(&database));
    store.migrate().await.unwrap();
    let registration = port_worker("w", (10205, 10209));
    let worker = store.register_worker(&registration).await.unwrap();
    let mut client = database.connect().await.unwrap();
    let tx = client.transaction().await.unwrap();
    let sql = format!(
        "INSERT INTO circuits (id, protocol, worker, app_mode, frontend_mode, port, envs, \
         open_to_public, session_ids, route_info) VALUES (uuid_generate_v4(), 'HTTP', '{}', \
         'INTERACTIVE', 'PORT', 10205, '{{}}', false, '{{}}', '[]')",
        worker.id
    );
    tx.batch_execute(&sql).await.unwrap();
    let new = circuit_on(worker.id, SlotWish::AnyPort);
    let opening = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.open_circuit(&new).await })
    };
    // Our insert waits for the other's end: the same entry of the unique index.
    let observer = database.connect().await.unwrap();
    let waiting = "SELECT (count(*) > 0)::text FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while text(&observer, waiting).await != "true" {
        assert!(std::time::Instant::now() < deadline, "nobody waits");
    }
    tx.commit().await.unwrap();
    let opened = opening.await.unwrap().unwrap();
    assert_eq!(opened.circuit.port, Some(10206));
    assert_eq!(opened.generation, 1);
}

#[tokio::test]
async fn unknown_databases_are_refused_untouched() {
    let doubled = format!(
        "{}; UPDATE workers SET port_range = NULL; \
         INSERT INTO circuits (id, protocol, worker, app_mode, frontend_mode, port, envs, \
         open_to_public, session_ids, route_info) VALUES (uuid_generate_v4(), 'HTTP', '{WORKER}', \
         'INTERACTIVE', 'PORT', 10205, '{{}}', false, '{{}}', '[]')",
        incumbent(Form::Migrated)
    );
    let revision = "CREATE TABLE alembic_version (version_num text); \
                    INSERT INTO alembic_version VALUES";
    for (statements, named) in [
        ("CREATE TABLE circuits (id int)", "circuits"),
        ("CREATE TABLE stamps (id int)", "stamps"),
        (&format!("{revision} ('ffff00000000')"), "ffff00000000"),
        (
            &format!("{revision} ('a1b2c3d4e5f6')"),
            "without table workers",
        ),
        (&doubled, "slot 10205 of worker"),
    ] {
        let database = Database::create().await.unwrap();
        let client = database.connect().await.unwrap();
        client.batch_execute(statements).await.unwrap();
        let count =
            "SELECT count(*)::text FROM pg_class WHERE relnamespace = 'public'::regnamespace";
        let before = text(&client, count).await;
        let store = connect(&database);
        for outcome in [store.verify_schema().await, store.migrate().await] {
            let Err(StoreError::UnknownSchema { found, fix, .. }) = outcome else {
                panic!("{outcome:?}");
            };
            assert!(found.contains(named), "{found}");
            assert!(!fix.is_empty());
        }
        assert_eq!(text(&client, count).await, before);
    }
}

#[tokio::test]
async fn a_later_version_is_refused() {
    let database = Database::create().await.unwrap();
    let store = connect(&database);
    store.migrate().await.unwrap();
    let client = database.connect().await.unwrap();
    let later = "INSERT INTO patchbay_schema_history (version, name, applied_on, checksum) \
                 VALUES (99, 'later', '', '1')";
    client.batch_execute(later).await.unwrap();
    let refusal = store.migrate().await.unwrap_err().to_string();
    assert!(refusal.contains("version 99 (later)"), "{refusal}");
    store.verify_schema().await.unwrap_err();
}

#[tokio::test]
async fn coordinators_may_start_at_once() {
    for taken_over in [false, true] {
        let database = Database::create().await.unwrap();
        if taken_over {
            let client = database.connect().await.unwrap();
            let schema = incumbent(Form::Oneshot);
            client.batch_execute(&schema).await.unwrap();
        }
        let starting: Vec<_> = (0..4)
            .map(|_| {
                let store = connect(&database);
                tokio::spawn(async move { store.migrate().await })
            })
            .collect();
        for one in starting {
            one.await.unwrap().unwrap();
        }
        connect(&database).verify_schema().await.unwrap();
    }
}

#[tokio::test]
async fn the_store_outlives_its_connections() {
    let database = Database::create().await.unwrap();
    let store = connect(&database);
    store.migrate().await.unwrap();
    let registration = port_worker("w", (10205, 10209));
    let worker = store.register_worker(&registration).await.unwrap();
    let client = database.connect().await.unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    client.batch_execute(cut).await.unwrap();
    // One request may meet the end of its connection, the ones after it meet a new one.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while store.ping().await.is_err() {
        assert!(std::time::Instant::now() < deadline);
    }
    open(&store, &worker, SlotWish::AnyPort).await.unwrap();
}
