//! One suite of tests, run against both stores, and what only one of them can get wrong.

mod circuits;
mod endpoints;
mod events;
mod postgres;
mod sqlite;
mod workers;

use std::collections::HashSet;

use patchbay_common::circuit::{AppMode, FrontendMode, Protocol};
use patchbay_common::id::{CircuitId, SessionId, TokenId, UserId, WorkerId};
use patchbay_common::route::Route;
use patchbay_common::worker::{AppFilter, Registration};
use patchbay_tests::postgres::Database;

use super::{
    NewCircuit, PostgresConfig, PostgresStore, Reuse, SessionToken, SlotWish, SqliteStore, Store,
};

/// Runs a test of the suite against both stores.
macro_rules! on_both_stores {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::store::contract::in_memory().await).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $name() {
                let database = crate::store::contract::database().await;
                let store = crate::store::contract::connect(&database);
                crate::store::Store::migrate(&store).await.unwrap();
                super::$name(&store).await;
            })+
        }
    };
}
use on_both_stores;

async fn in_memory() -> SqliteStore {
    let store = SqliteStore::in_memory();
    store.migrate().await.unwrap();
    store
}

async fn database() -> Database {
    Database::create().await.unwrap()
}

fn connect(database: &Database) -> PostgresStore {
    let (host, port, name) = database.place();
    PostgresStore::connect(PostgresConfig {
        host: host.to_owned(),
        port,
        name: name.to_owned(),
        user: "postgres".to_owned(),
        password: patchbay_common::config::Secret::new("unused"),
        pool_size: 8,
    })
    .unwrap()
}

fn registration(authority: &str) -> Registration {
    Registration {
        authority: authority.to_owned(),
        frontend_mode: FrontendMode::Port,
        protocol: Protocol::Http,
        hostname: "worker.example".to_owned(),
        tls_listen: false,
        tls_advertised: true,
        api_port: 10_201,
        accepted_traffics: vec![AppMode::Interactive, AppMode::Inference],
        filtered_apps_only: false,
        app_filters: Vec::new(),
        traefik_last_used_marker_path: None,
        port_range: Some((10_205, 10_209)),
        wildcard_domain: None,
        wildcard_traffic_port: None,
        node_id: None,
    }
}

fn at_domain(authority: &str, domain: &str) -> Registration {
    Registration {
        frontend_mode: FrontendMode::Wildcard,
        port_range: None,
        wildcard_domain: Some(domain.to_owned()),
        wildcard_traffic_port: Some(10_250),
        ..registration(authority)
    }
}

fn circuit(worker: WorkerId, slot: SlotWish) -> NewCircuit {
    let session = SessionId::random();
    NewCircuit {
        id: CircuitId::random(),
        worker,
        slot,
        app: Some("jupyter".to_owned()),
        protocol: Protocol::Http,
        app_mode: AppMode::Interactive,
        envs: serde_json::from_str(r#"{"A": "1"}"#).unwrap(),
        arguments: Some("--x".to_owned()),
        open_to_public: false,
        allowed_client_ips: None,
        user_id: Some(UserId::random()),
        endpoint_id: None,
        runtime_variant: None,
        routes: vec![Route {
            route_id: None,
            session_id: session,
            session_name: None,
            kernel_host: Some("10.0.0.5".to_owned()),
            kernel_port: 30_729,
            protocol: Protocol::Vnc,
            traffic_ratio: 1.0,
        }],
        session_ids: vec![session],
        origin_request_id: Some("req-1".to_owned()),
        reuse: None,
    }
}

fn shared(mut new: NewCircuit) -> NewCircuit {
    new.reuse = Some(Reuse {
        session: new.session_ids[0],
        app: new.app.clone(),
        protocol: new.protocol,
        open_to_public: new.open_to_public,
        allowed_client_ips: new.allowed_client_ips.clone(),
    });
    new
}

fn filter(key: &str, value: &str) -> AppFilter {
    AppFilter {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

/// Every circuit the store holds for a worker has a slot of its own.
async fn assert_slots_are_unique(store: &dyn Store, worker: WorkerId) -> usize {
    let held = store.worker_circuits(worker).await.unwrap().unwrap();
    let slots: HashSet<_> = held.circuits.iter().map(|c| c.slot().unwrap()).collect();
    assert_eq!(slots.len(), held.circuits.len());
    slots.len()
}

async fn tokens_are_kept(store: &dyn Store) {
    let token = SessionToken {
        id: TokenId::random(),
        login_session_token: None,
        kernel_host: "10.0.0.5".to_owned(),
        kernel_port: 65_535,
        session_id: SessionId::random(),
        user: UserId::random(),
        project: uuid::Uuid::new_v4().into(),
        access_key: "AK".to_owned(),
        domain_name: "default".to_owned(),
    };
    store.add_token(&token).await.unwrap();
    assert_eq!(store.token(token.id).await.unwrap(), Some(token));
    assert_eq!(store.token(TokenId::random()).await.unwrap(), None);
    store.ping().await.unwrap();
    store.verify_schema().await.unwrap();
    store.migrate().await.unwrap();
}

on_both_stores!(tokens_are_kept);
