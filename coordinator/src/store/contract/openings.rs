//! Opening and closing circuits.

use std::collections::BTreeSet;
use std::sync::Arc;

use patchbay_common::circuit::{AppMode, FrontendMode, Protocol};
use patchbay_common::id::{CircuitId, EndpointId, RouteId, UserId, WorkerId};
use serde_json::json;

use super::{Bench, asked, circuit_on, nobody, open, port_worker, subdomain, wildcard_worker};
use crate::store::{NewCircuit, SlotWish, StoreError};

pub(super) async fn a_circuit_comes_back_as_it_was_opened(bench: Bench) {
    let registration = port_worker("w", (10205, 10209));
    let worker = bench.store.register_worker(&registration).await.unwrap();
    let mut new = NewCircuit {
        protocol: Protocol::Vnc,
        app_mode: AppMode::Inference,
        envs: json!({"PATH": "/opt", "deep": {"list": [1, null, "é한"]}})
            .as_object()
            .unwrap()
            .clone(),
        arguments: Some("--x".to_owned()),
        open_to_public: true,
        allowed_client_ips: Some("10.0.0.0/8".to_owned()),
        user_id: Some(UserId::random()),
        endpoint_id: Some(EndpointId::random()),
        runtime_variant: Some("vllm".to_owned()),
        ..circuit_on(worker.id, SlotWish::Port(10207))
    };
    new.routes[0].protocol = Protocol::Vnc;
    new.routes[0].route_id = Some(RouteId::random());
    new.routes[0].traffic_ratio = 0.25;
    let opened = bench.store.open_circuit(&new).await.unwrap();

    let circuit = bench.other.circuit(new.id).await.unwrap().unwrap();
    assert_eq!(circuit, opened.circuit);
    assert_eq!(circuit.protocol, Protocol::Tcp, "as it is carried");
    assert_eq!(circuit.route_info, new.routes, "as they were asked for");
    assert_eq!(circuit.frontend_mode, FrontendMode::Port);
    assert_eq!((circuit.port, &circuit.subdomain), (Some(10207), &None));
    assert_eq!((&circuit.envs, circuit.app), (&new.envs, new.app));
    assert_eq!(circuit.session_ids, new.session_ids);
    assert_eq!(circuit.allowed_client_ips, new.allowed_client_ips);
    assert_eq!(circuit.endpoint_id, new.endpoint_id);
    assert_eq!(circuit.user_id, new.user_id);
    assert_eq!(circuit.origin_request_id.as_deref(), Some("req-1"));
    assert!((opened.generation, opened.reused) == (1, false));
    assert_eq!(opened.worker.occupied_slots, 1);
    assert_eq!(
        bench.store.circuit(CircuitId::random()).await.unwrap(),
        None
    );
}

pub(super) async fn the_lowest_free_port_is_given(bench: Bench) {
    let store = &*bench.store;
    let registration = port_worker("w", (10205, 10209));
    let worker = store.register_worker(&registration).await.unwrap();
    let mut ports = Vec::new();
    let mut second = None;
    for number in 0..4 {
        let opened = open(store, &worker, SlotWish::AnyPort).await.unwrap();
        ports.push(opened.circuit.port.unwrap());
        if number == 1 {
            second = Some(opened.circuit.id);
        }
    }
    assert_eq!(ports, [10205, 10206, 10207, 10208]);
    let closed = store
        .close_circuit(second.unwrap(), &nobody())
        .await
        .unwrap();
    assert_eq!(closed.unwrap().generation, 5);
    let again = open(store, &worker, SlotWish::AnyPort).await.unwrap();
    assert_eq!(again.circuit.port, Some(10206));

    // The range moves: what it left behind does not count.
    let moved = port_worker("w", (10208, 10210));
    store.register_worker(&moved).await.unwrap();
    let next = open(store, &worker, SlotWish::AnyPort).await.unwrap();
    assert_eq!(next.circuit.port, Some(10209));
}

pub(super) async fn a_port_is_given_once(bench: Bench) {
    let registration = port_worker("w", (10205, 10209));
    let worker = bench.store.register_worker(&registration).await.unwrap();
    open(&*bench.store, &worker, SlotWish::Port(10206))
        .await
        .unwrap();
    for port in [10206, 10204, 10210] {
        let refusal = open(&*bench.other, &worker, SlotWish::Port(port)).await;
        let expected = (worker.id, port);
        assert!(
            matches!(refusal, Err(StoreError::PortTaken { worker, port }) if (worker, port) == expected),
            "{port}: {refusal:?}"
        );
    }
    assert_eq!(bench.store.generation(worker.id).await.unwrap(), 1);
}

pub(super) async fn a_full_worker_is_full(bench: Bench) {
    let registration = port_worker("w", (10205, 10206));
    let worker = bench.store.register_worker(&registration).await.unwrap();
    open(&*bench.store, &worker, SlotWish::AnyPort)
        .await
        .unwrap();
    open(&*bench.store, &worker, SlotWish::AnyPort)
        .await
        .unwrap();
    let refusal = open(&*bench.store, &worker, SlotWish::AnyPort).await;
    assert!(matches!(refusal, Err(StoreError::WorkerFull(id)) if id == worker.id));
    let worker = bench.store.worker(worker.id).await.unwrap().unwrap();
    assert_eq!((worker.available_slots, worker.occupied_slots), (2, 2));
    assert!(!worker.has_room());
}

pub(super) async fn a_slot_of_the_wrong_kind_is_refused(bench: Bench) {
    let store = &*bench.store;
    let ports = port_worker("ports", (10205, 10209));
    let ports = store.register_worker(&ports).await.unwrap();
    let names = wildcard_worker("names", ".app.local");
    let names = store.register_worker(&names).await.unwrap();
    let refusals = [
        open(store, &ports, subdomain("a")).await,
        open(store, &names, SlotWish::AnyPort).await,
        open(store, &names, SlotWish::Port(10205)).await,
        store
            .open_circuit(&circuit_on(WorkerId::random(), SlotWish::AnyPort))
            .await,
    ];
    for refusal in refusals {
        assert!(
            matches!(refusal, Err(StoreError::NoSuchWorker(_))),
            "{refusal:?}"
        );
    }
}

pub(super) async fn workers_of_one_domain_share_its_names(bench: Bench) {
    let store = &*bench.store;
    let mut workers = Vec::new();
    for (authority, domain) in [("a", ".app.local"), ("b", ".App.Local"), ("c", ".other")] {
        let registration = wildcard_worker(authority, domain);
        workers.push(store.register_worker(&registration).await.unwrap());
    }
    let [a, b, c] = workers.as_slice() else {
        unreachable!()
    };
    let first = open(store, a, subdomain("llm")).await.unwrap();
    for worker in [a, b] {
        let refusal = open(store, worker, subdomain("llm")).await;
        assert!(
            matches!(&refusal, Err(StoreError::SubdomainTaken { subdomain }) if subdomain == "llm"),
            "{refusal:?}"
        );
    }
    open(store, c, subdomain("llm")).await.unwrap();
    store
        .close_circuit(first.circuit.id, &nobody())
        .await
        .unwrap();
    let second = open(store, b, subdomain("llm")).await.unwrap();
    assert_eq!(second.circuit.frontend_mode, FrontendMode::Wildcard);
    assert_eq!(second.worker.available_slots, -1);
}

pub(super) async fn two_hundred_openers_get_two_hundred_ports(bench: Bench) {
    let registration = port_worker("w", (20000, 20199));
    let worker = bench.store.register_worker(&registration).await.unwrap();
    let openers: Vec<_> = (0..200)
        .map(|number| {
            let store = Arc::clone(if number % 2 == 0 {
                &bench.store
            } else {
                &bench.other
            });
            let new = circuit_on(worker.id, SlotWish::AnyPort);
            tokio::spawn(async move { store.open_circuit(&new).await.unwrap() })
        })
        .collect();
    let mut ports = BTreeSet::new();
    let mut generations = BTreeSet::new();
    for opener in openers {
        let opened = opener.await.unwrap();
        ports.insert(opened.circuit.port.unwrap());
        generations.insert(opened.generation);
        let held = u64::try_from(opened.worker.occupied_slots).unwrap();
        assert_eq!(held, opened.generation, "counted, and as of its moment");
    }
    assert_eq!(ports, (20000..=20199).collect());
    assert_eq!(generations, (1..=200).collect());
    let refusal = open(&*bench.other, &worker, SlotWish::AnyPort).await;
    assert!(matches!(refusal, Err(StoreError::WorkerFull(_))));
}

pub(super) async fn openers_of_one_name_get_it_once(bench: Bench) {
    let mut workers = Vec::new();
    for authority in ["a", "b"] {
        let registration = wildcard_worker(authority, ".app.local");
        workers.push(bench.store.register_worker(&registration).await.unwrap());
    }
    let openers: Vec<_> = (0..20)
        .map(|number| {
            let store = Arc::clone(if number % 2 == 0 {
                &bench.store
            } else {
                &bench.other
            });
            let new = circuit_on(workers[number / 10].id, subdomain("llm"));
            tokio::spawn(async move { store.open_circuit(&new).await })
        })
        .collect();
    let mut opened = 0;
    for opener in openers {
        match opener.await.unwrap() {
            Ok(_) => opened += 1,
            Err(StoreError::SubdomainTaken { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(opened, 1);
}

pub(super) async fn closing_is_done_once(bench: Bench) {
    let registration = port_worker("w", (10205, 10209));
    let worker = bench.store.register_worker(&registration).await.unwrap();
    let opened = open(&*bench.store, &worker, SlotWish::AnyPort)
        .await
        .unwrap();
    let id = opened.circuit.id;
    let closers: Vec<_> = (0..6)
        .map(|number| {
            let store = Arc::clone(if number % 2 == 0 {
                &bench.store
            } else {
                &bench.other
            });
            tokio::spawn(async move { store.close_circuit(id, &asked("req-2")).await.unwrap() })
        })
        .collect();
    let mut closed = Vec::new();
    for closer in closers {
        closed.extend(closer.await.unwrap());
    }
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].circuit, opened.circuit);
    assert_eq!(
        (closed[0].authority.as_str(), closed[0].generation),
        ("w", 2)
    );
    let worker = bench.store.worker(worker.id).await.unwrap().unwrap();
    assert_eq!(worker.occupied_slots, 0);
    assert_eq!(bench.store.circuit(id).await.unwrap(), None);
}

pub(super) async fn a_broken_row_costs_only_itself(bench: Bench) {
    let store = &*bench.store;
    let registration = port_worker("w", (10205, 10209));
    let worker = store.register_worker(&registration).await.unwrap();
    let broken = open(store, &worker, SlotWish::AnyPort).await.unwrap();
    let sound = open(store, &worker, SlotWish::AnyPort).await.unwrap();
    let id = broken.circuit.id;
    let sql =
        format!("UPDATE circuits SET route_info = '{{\"not\": \"routes\"}}' WHERE id = '{id}'");
    if !bench.behind_its_back(&sql).await {
        return;
    }
    let listed = store.worker_circuits(worker.id).await.unwrap().unwrap();
    assert_eq!(listed.circuits, [sound.circuit]);
    assert_eq!(listed.generation, 2);
    let refusal = store.circuit(id).await;
    assert!(
        matches!(&refusal, Err(StoreError::Corrupt { place, .. })
            if place.contains("route_info") && place.contains(&id.to_string())),
        "{refusal:?}"
    );
    let closed = store.close_circuit(id, &nobody()).await.unwrap().unwrap();
    assert_eq!(closed.circuit.port, broken.circuit.port);
    assert_eq!(store.circuit(id).await.unwrap(), None);
}

pub(super) async fn what_no_column_holds_is_refused(bench: Bench) {
    let store = &*bench.store;
    let registration = port_worker("w", (10205, 10209));
    let worker = store.register_worker(&registration).await.unwrap();
    let good = circuit_on(worker.id, SlotWish::AnyPort);
    let mut bad_ratio = good.clone();
    bad_ratio.routes[0].traffic_ratio = f64::NAN;
    let with_app = |app: &str| NewCircuit {
        app: Some(app.to_owned()),
        ..good.clone()
    };
    for (bad, name) in [
        (with_app(&"x".repeat(256)), "app"),
        (with_app("nul\0"), "app"),
        (bad_ratio, "traffic_ratio"),
    ] {
        let refusal = store.open_circuit(&bad).await;
        assert!(
            matches!(&refusal, Err(StoreError::Unfit { field, .. }) if *field == name),
            "{refusal:?}"
        );
    }
    let refusal = store.register_worker(&port_worker("w", (2, 1))).await;
    assert!(matches!(
        refusal,
        Err(StoreError::Unfit {
            field: "port_range",
            ..
        })
    ));
    let again = store
        .open_circuit(&with_app(&"한".repeat(255)))
        .await
        .unwrap();
    let refusal = store.open_circuit(&good).await;
    assert!(
        matches!(refusal, Err(StoreError::Failed { .. })),
        "a second {} is not a taken slot: {refusal:?}",
        again.circuit.id
    );
}

pub(super) async fn the_counter_of_the_incumbent_stays_above_zero(bench: Bench) {
    let store = &*bench.store;
    let registration = port_worker("w", (10205, 10209));
    let worker = store.register_worker(&registration).await.unwrap();
    let opened = open(store, &worker, SlotWish::AnyPort).await.unwrap();
    if !bench
        .behind_its_back("UPDATE workers SET occupied_slots = 0")
        .await
    {
        return;
    }
    assert_eq!(store.recount_slots().await.unwrap(), [worker.id]);
    let seen = store.worker(worker.id).await.unwrap().unwrap();
    assert_eq!(seen.occupied_slots, 1, "counted, whatever the column said");
    assert_eq!(store.recount_slots().await.unwrap(), []);
    let drifted = "UPDATE workers SET occupied_slots = 0";
    assert!(bench.behind_its_back(drifted).await);
    store
        .close_circuit(opened.circuit.id, &nobody())
        .await
        .unwrap();
    // A breach of this check would fail the statement.
    let check = "CREATE TABLE checked (slots INTEGER CHECK (slots = 0)); \
                 INSERT INTO checked SELECT occupied_slots FROM workers";
    assert!(bench.behind_its_back(check).await);
}

pub(super) async fn long_open_circuits_of_people_are_listed_by_page(bench: Bench) {
    let store = &*bench.store;
    let mut registration = port_worker("w", (10205, 10219));
    registration.accepted_traffics.push(AppMode::Inference);
    let worker = store.register_worker(&registration).await.unwrap();
    let mut wanted = Vec::new();
    for protocol in [
        Protocol::Http,
        Protocol::Preopen,
        Protocol::Tcp,
        Protocol::Vnc,
    ] {
        let new = NewCircuit {
            protocol,
            ..circuit_on(worker.id, SlotWish::AnyPort)
        };
        let circuit = store.open_circuit(&new).await.unwrap().circuit;
        wanted.push((circuit.id, circuit.app, circuit.created_at));
    }
    let others = [
        (AppMode::Inference, Protocol::Http),
        (AppMode::Interactive, Protocol::H2),
        (AppMode::Interactive, Protocol::Grpc),
    ];
    for (app_mode, protocol) in others {
        let new = NewCircuit {
            app_mode,
            protocol,
            ..circuit_on(worker.id, SlotWish::AnyPort)
        };
        store.open_circuit(&new).await.unwrap();
    }
    wanted.sort_by_key(|(id, ..)| id.0);

    let later = chrono::Utc::now() + chrono::TimeDelta::seconds(1);
    let mut listed = store.long_open(later, None, 3).await.unwrap();
    assert_eq!(listed.len(), 3);
    let after = Some(listed[2].id);
    listed.extend(store.long_open(later, after, 3).await.unwrap());
    let listed: Vec<_> = listed
        .into_iter()
        .map(|c| (c.id, c.app, c.opened))
        .collect();
    assert_eq!(listed, wanted);
    let first = wanted.iter().map(|(.., opened)| *opened).min().unwrap();
    assert_eq!(store.long_open(first, None, 3).await.unwrap(), []);
}
