//! The registry of workers, and tokens.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use patchbay_common::circuit::{AppMode, Protocol};
use patchbay_common::id::{ProjectId, SessionId, TokenId, UserId, WorkerId};
use patchbay_common::worker::{AppFilter, Registration, WorkerStatus};

use super::{Bench, circuit_on, open, port_worker, subdomain, wildcard_worker};
use crate::store::{SessionToken, SlotWish, StoreError};

fn filter(value: &str) -> AppFilter {
    AppFilter {
        key: "session.user_uuid".to_owned(),
        value: value.to_owned(),
    }
}

pub(super) async fn a_registration_replaces_the_one_before(bench: Bench) {
    let store = &*bench.store;
    let mut registration = Registration {
        app_filters: vec![filter("one"), filter("two"), filter("two")],
        ..port_worker("w", (10205, 10209))
    };
    let first = store.register_worker(&registration).await.unwrap();
    assert_eq!(first.status, WorkerStatus::Alive);
    assert_eq!((first.available_slots, first.occupied_slots), (5, 0));
    assert_eq!(store.worker(first.id).await.unwrap().unwrap(), first);
    let filters = store.app_filters().await.unwrap();
    assert_eq!(
        filters,
        [(first.id, filter("one")), (first.id, filter("two"))]
    );

    open(store, &first, SlotWish::AnyPort).await.unwrap();
    registration.app_filters = vec![filter("two"), filter("three")];
    registration.accepted_traffics = vec![AppMode::Inference, AppMode::Interactive];
    registration.protocol = Protocol::Tcp;
    registration.hostname = "elsewhere.example".to_owned();
    registration.port_range = Some((10205, 10206));
    let second = store.register_worker(&registration).await.unwrap();
    assert_eq!((second.id, second.created_at), (first.id, first.created_at));
    assert!(second.updated_at >= first.updated_at);
    assert_eq!(second.accepted_traffics, registration.accepted_traffics);
    assert_eq!(
        (second.protocol, second.hostname.as_str()),
        (Protocol::Tcp, "elsewhere.example")
    );
    assert_eq!((second.available_slots, second.occupied_slots), (2, 1));
    let filters = store.app_filters().await.unwrap();
    let values: Vec<&str> = filters.iter().map(|(_, f)| f.value.as_str()).collect();
    assert_eq!(values, ["three", "two"]);

    store
        .register_worker(&port_worker("a", (1, 2)))
        .await
        .unwrap();
    let names: Vec<String> = store
        .workers()
        .await
        .unwrap()
        .into_iter()
        .map(|w| w.authority)
        .collect();
    assert_eq!(names, ["a", "w"]);
    let named = store.worker_by_authority("w").await.unwrap();
    assert_eq!(named.unwrap().id, first.id);
    assert_eq!(store.worker_by_authority("nobody").await.unwrap(), None);
    assert_eq!(store.worker(WorkerId::random()).await.unwrap(), None);
    assert_eq!(
        store.heartbeat(WorkerId::random(), None).await.unwrap(),
        None
    );
    assert_eq!(
        store.worker_circuits(WorkerId::random()).await.unwrap(),
        None
    );
}

pub(super) async fn nodes_are_counted_by_name(bench: Bench) {
    let store = &*bench.store;
    let named = |node: &str| Registration {
        node_id: Some(node.to_owned()),
        ..port_worker("w", (10205, 10209))
    };
    let worker = store.register_worker(&named("one")).await.unwrap();
    assert_eq!(worker.nodes, 1);
    let restarted = store.register_worker(&named("one")).await.unwrap();
    assert_eq!(restarted.nodes, 1, "a restart is not a second node");
    assert_eq!(store.register_worker(&named("two")).await.unwrap().nodes, 2);

    let left = store
        .leave_worker(worker.id, Some("one"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((left.nodes, left.status), (1, WorkerStatus::Alive));
    let twice = store
        .leave_worker(worker.id, Some("one"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((twice.nodes, twice.status), (1, WorkerStatus::Alive));
    let last = store
        .leave_worker(worker.id, Some("two"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((last.nodes, last.status), (0, WorkerStatus::Lost));
    let back = store.register_worker(&named("three")).await.unwrap();
    assert_eq!((back.nodes, back.status), (1, WorkerStatus::Alive));
    assert_eq!(
        store.leave_worker(WorkerId::random(), None).await.unwrap(),
        None
    );
}

pub(super) async fn nodes_without_a_name_are_counted_one_by_one(bench: Bench) {
    let store = &*bench.store;
    let registration = port_worker("w", (10205, 10209));
    store.register_worker(&registration).await.unwrap();
    let worker = store.register_worker(&registration).await.unwrap();
    assert_eq!(worker.nodes, 2);
    for (nodes, status) in [
        (1, WorkerStatus::Alive),
        (0, WorkerStatus::Lost),
        (0, WorkerStatus::Lost),
    ] {
        let left = store.leave_worker(worker.id, None).await.unwrap().unwrap();
        assert_eq!((left.nodes, left.status), (nodes, status));
    }
}

pub(super) async fn silence_makes_a_worker_lost(bench: Bench) {
    let store = &*bench.store;
    let silent = store
        .register_worker(&port_worker("silent", (1, 2)))
        .await
        .unwrap();
    let since = store
        .register_worker(&port_worker("loud", (1, 2)))
        .await
        .unwrap()
        .updated_at;
    let loud = store.worker_by_authority("loud").await.unwrap().unwrap();
    assert!(silent.updated_at < since);

    let lost = store.mark_lost(since).await.unwrap();
    let names: Vec<&str> = lost.iter().map(|w| w.authority.as_str()).collect();
    assert_eq!(names, ["silent"]);
    assert_eq!(lost[0].status, WorkerStatus::Lost);
    assert_eq!(store.mark_lost(since).await.unwrap(), [], "told once");
    let kept = store.worker(loud.id).await.unwrap().unwrap();
    assert_eq!(kept.status, WorkerStatus::Alive);

    let back = store.heartbeat(silent.id, None).await.unwrap().unwrap();
    assert_eq!(back.status, WorkerStatus::Alive);
    assert!(back.updated_at > silent.updated_at);
    let everybody = Utc::now() + Duration::from_secs(60);
    assert_eq!(store.mark_lost(everybody).await.unwrap().len(), 2);
    // Whoever served before is gone: the count starts again.
    let again = store
        .register_worker(&port_worker("silent", (1, 2)))
        .await
        .unwrap();
    assert_eq!((again.id, again.nodes), (silent.id, 1));
}

pub(super) async fn registering_at_once_makes_one_worker(bench: Bench) {
    let registering: Vec<_> = (0..10)
        .map(|number| {
            let store = Arc::clone(if number % 2 == 0 {
                &bench.store
            } else {
                &bench.other
            });
            let registration = Registration {
                node_id: Some(format!("node-{number}")),
                app_filters: vec![filter("one")],
                ..port_worker("w", (10205, 10209))
            };
            tokio::spawn(async move { store.register_worker(&registration).await.unwrap().id })
        })
        .collect();
    let mut ids = Vec::new();
    for one in registering {
        ids.push(one.await.unwrap());
    }
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    let worker = bench.store.worker(ids[0]).await.unwrap().unwrap();
    assert_eq!(worker.nodes, 10);
    assert_eq!(bench.store.app_filters().await.unwrap().len(), 1);
}

pub(super) async fn names_move_with_the_domain(bench: Bench) {
    let store = &*bench.store;
    let a = store
        .register_worker(&wildcard_worker("a", ".one"))
        .await
        .unwrap();
    let b = store
        .register_worker(&wildcard_worker("b", ".two"))
        .await
        .unwrap();
    open(store, &a, subdomain("llm")).await.unwrap();
    store
        .register_worker(&wildcard_worker("a", ".three"))
        .await
        .unwrap();
    open(store, &b, subdomain("llm")).await.unwrap();
    store
        .register_worker(&wildcard_worker("b", ".one"))
        .await
        .unwrap();
    // Both have it and come to one domain: the move succeeds, and the name stays taken.
    store
        .register_worker(&wildcard_worker("b", ".three"))
        .await
        .unwrap();
    let refusal = open(store, &a, subdomain("llm")).await;
    assert!(matches!(refusal, Err(StoreError::SubdomainTaken { .. })));
    let c = store
        .register_worker(&wildcard_worker("c", ".three"))
        .await
        .unwrap();
    let refusal = open(store, &c, subdomain("llm")).await;
    assert!(matches!(refusal, Err(StoreError::SubdomainTaken { .. })));
}

fn token(session_id: SessionId) -> SessionToken {
    SessionToken {
        id: TokenId::random(),
        login_session_token: None,
        kernel_host: "10.10.0.5".to_owned(),
        kernel_port: 30729,
        session_id,
        user: UserId::random(),
        project: ProjectId::random(),
        access_key: "AKEXAMPLE".to_owned(),
        domain_name: "default".to_owned(),
    }
}

pub(super) async fn old_tokens_are_forgotten(bench: Bench) {
    let store = &*bench.store;
    let worker = store
        .register_worker(&port_worker("w", (20000, 20009)))
        .await
        .unwrap();
    let new = circuit_on(worker.id, SlotWish::AnyPort);
    let in_use = token(new.session_ids[0]);
    store.open_circuit(&new).await.unwrap();
    let unused = [
        token(SessionId::random()),
        token(SessionId::random()),
        token(SessionId::random()),
    ];
    for token in unused.iter().chain([&in_use]) {
        store.add_token(token).await.unwrap();
    }
    let long_ago = Utc::now() - TimeDelta::hours(1);
    let soon = Utc::now() + TimeDelta::hours(1);
    assert_eq!(store.prune_tokens(long_ago, 100).await.unwrap(), 0);
    assert_eq!(store.prune_tokens(soon, 2).await.unwrap(), 2);
    assert_eq!(store.token(unused[0].id).await.unwrap(), None);
    assert!(store.token(unused[2].id).await.unwrap().is_some());
    assert_eq!(store.prune_tokens(soon, 100).await.unwrap(), 1);
    assert_eq!(store.token(in_use.id).await.unwrap(), Some(in_use));
}

pub(super) async fn tokens_are_kept(bench: Bench) {
    let token = token(SessionId::random());
    bench.store.add_token(&token).await.unwrap();
    let logged_in = SessionToken {
        id: TokenId::random(),
        login_session_token: Some("login".to_owned()),
        ..token.clone()
    };
    bench.store.add_token(&logged_in).await.unwrap();
    assert_eq!(bench.other.token(token.id).await.unwrap(), Some(token));
    assert_eq!(
        bench.other.token(logged_in.id).await.unwrap(),
        Some(logged_in.clone())
    );
    assert_eq!(bench.store.token(TokenId::random()).await.unwrap(), None);
    let endless = SessionToken {
        kernel_host: "x".repeat(256),
        ..logged_in
    };
    let refusal = bench.store.add_token(&endless).await;
    assert!(matches!(
        refusal,
        Err(StoreError::Unfit {
            field: "kernel_host",
            ..
        })
    ));
    bench.store.ping().await.unwrap();
    bench.store.verify_schema().await.unwrap();
    bench.other.migrate().await.unwrap();
}
