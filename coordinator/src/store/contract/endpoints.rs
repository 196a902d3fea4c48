//! Endpoints: opening many, their routes, and their end.

use std::collections::HashSet;

use patchbay_common::circuit::{AppMode, Protocol};
use patchbay_common::event::Change;
use patchbay_common::id::{CircuitId, EndpointId, RouteId, SessionId, WorkerId};
use patchbay_common::route::Route;
use patchbay_common::worker::Registration;

use super::{Bench, Place, asked, circuit_on, nobody, port_worker, wildcard_worker};
use crate::store::{
    HealthCheck, NewCircuit, NewEndpoint, Opened, Rerouted, RouteChange, RoutesRefused, SlotWish,
    Store, StoreError,
};

fn taking_models(registration: Registration) -> Registration {
    Registration {
        accepted_traffics: vec![AppMode::Interactive, AppMode::Inference],
        ..registration
    }
}

fn registration(authority: &str) -> Registration {
    taking_models(port_worker(authority, (10_205, 10_209)))
}

fn at_domain(authority: &str) -> Registration {
    taking_models(wildcard_worker(authority, ".app.local"))
}

/// Every circuit the store holds for a worker has a slot of its own.
async fn assert_slots_are_unique(store: &dyn Store, worker: WorkerId) -> usize {
    let held = store.worker_circuits(worker).await.unwrap().unwrap();
    let slots: HashSet<_> = held.circuits.iter().map(|c| c.slot().unwrap()).collect();
    assert_eq!(slots.len(), held.circuits.len());
    slots.len()
}

fn endpoint(worker: WorkerId, slot: SlotWish) -> NewEndpoint {
    let id = EndpointId::random();
    NewEndpoint {
        id,
        health_check: None,
        circuit: Some(NewCircuit {
            app_mode: AppMode::Inference,
            endpoint_id: Some(id),
            routes: Vec::new(),
            session_ids: Vec::new(),
            ..circuit_on(worker, slot)
        }),
    }
}

fn check() -> HealthCheck {
    HealthCheck {
        enable: true,
        interval: 10.0,
        path: "/health".to_owned(),
        max_retries: 3,
        max_wait_time: 15.0,
        expected_status_code: 200,
        initial_delay: 0.5,
    }
}

fn route(port: u16) -> Route {
    Route {
        route_id: Some(RouteId::random()),
        session_id: SessionId::random(),
        session_name: None,
        kernel_host: Some("10.0.0.6".to_owned()),
        kernel_port: port,
        protocol: Protocol::Http,
        traffic_ratio: 1.0,
    }
}

pub(super) async fn many_open_in_their_order_and_only_once(bench: Bench) {
    let store = &*bench.store;
    let wild = at_domain("wild");
    let wild = store.register_worker(&wild).await.unwrap().id;
    let ports = store.register_worker(&registration("ports")).await;
    let ports = ports.unwrap().id;
    let like = || SlotWish::Subdomain("llm".to_owned());
    let wishes = [
        endpoint(wild, like()),
        endpoint(ports, SlotWish::AnyPort),
        endpoint(wild, like()),
        endpoint(ports, SlotWish::Port(10_205 + 1)),
        endpoint(ports, SlotWish::AnyPort),
    ];
    let opened = store.open_endpoints(&wishes).await.unwrap();
    let opened: Vec<_> = opened.into_iter().map(Option::unwrap).collect();
    for (wish, opened) in wishes.iter().zip(&opened) {
        assert_eq!(opened.circuit.endpoint_id, Some(wish.id));
        assert!(!opened.reused);
        let kept = store.circuit(opened.circuit.id).await.unwrap();
        assert_eq!(kept.as_ref(), Some(&opened.circuit));
    }
    let name = |at: usize| opened[at].circuit.subdomain.clone().unwrap();
    assert_eq!(name(0), "llm");
    assert!(
        name(2).starts_with("llm-") && name(2).len() == 12,
        "{}",
        name(2)
    );
    assert_eq!(assert_slots_are_unique(store, ports).await, 3);
    assert_eq!(opened[3].circuit.port, Some(10_206));
    let generations = |worker| {
        let of = opened.iter().filter(move |o| o.worker.id == worker);
        of.map(|o| o.generation).collect::<Vec<_>>()
    };
    assert_eq!(
        (generations(wild), generations(ports)),
        (vec![1, 2], vec![1, 2, 3])
    );
    let events = store.events_after(wild, 0, 9).await.unwrap().unwrap();
    let told: Vec<_> = events.into_iter().map(|event| event.event.change).collect();
    let created = |at: usize| Change::Created(vec![opened[at].circuit.clone()]);
    assert_eq!(told, [created(0), created(2)]);
    let worker = store.worker(ports).await.unwrap().unwrap();
    assert_eq!(worker.occupied_slots, 3);

    let mut again = wishes.to_vec();
    again.reverse();
    let same = store.open_endpoints(&again).await.unwrap();
    for (same, opened) in same.into_iter().flatten().zip(opened.iter().rev()) {
        assert!(same.reused);
        assert_eq!(same.circuit, opened.circuit);
    }
    assert_eq!(
        store.generation(ports).await.unwrap(),
        3,
        "nothing has changed"
    );
}

pub(super) async fn nothing_is_kept_of_a_call_that_fails(bench: Bench) {
    let store = &*bench.store;
    let worker = store.register_worker(&registration("w")).await.unwrap().id;
    let wishes = [
        endpoint(worker, SlotWish::Port(10_205)),
        endpoint(worker, SlotWish::Port(10_205)),
    ];
    let taken = store.open_endpoints(&wishes).await.unwrap_err();
    assert!(
        matches!(taken, StoreError::PortTaken { port: 10_205, .. }),
        "{taken}"
    );
    assert_eq!(store.generation(worker).await.unwrap(), 0);
    assert!(!store.set_health_check(wishes[0].id, None).await.unwrap());
    let six: Vec<_> = (0..6)
        .map(|_| endpoint(worker, SlotWish::AnyPort))
        .collect();
    let full = store.open_endpoints(&six).await.unwrap_err();
    assert!(
        matches!(full, StoreError::WorkerFull(id) if id == worker),
        "{full}"
    );
    let mut bare = endpoint(worker, SlotWish::AnyPort);
    bare.circuit = None;
    assert_eq!(store.open_endpoints(&[bare]).await.unwrap(), [None]);
}

pub(super) async fn health_checks_are_replaced(bench: Bench) {
    let store = &*bench.store;
    let worker = store.register_worker(&registration("w")).await.unwrap().id;
    let mut wish = endpoint(worker, SlotWish::AnyPort);
    wish.health_check = Some(check());
    store.open_endpoints(&[wish.clone()]).await.unwrap();
    assert!(store.set_health_check(wish.id, None).await.unwrap());
    assert!(
        store
            .set_health_check(wish.id, Some(&check()))
            .await
            .unwrap()
    );
    let endless = HealthCheck {
        interval: f64::INFINITY,
        ..check()
    };
    let refused = store.set_health_check(wish.id, Some(&endless)).await;
    assert!(matches!(
        refused,
        Err(StoreError::Unfit {
            field: "health_check.interval",
            ..
        })
    ));
    assert!(
        !store
            .set_health_check(EndpointId::random(), None)
            .await
            .unwrap()
    );
    assert!(
        store
            .set_health_check(wish.id, Some(&check()))
            .await
            .unwrap()
    );
    assert_eq!(
        store.generation(worker).await.unwrap(),
        3,
        "what is new is told, and once"
    );
}

pub(super) async fn health_checks_reach_the_workers(bench: Bench) {
    let store = &*bench.store;
    let worker = store.register_worker(&registration("w")).await.unwrap().id;
    let mut wish = endpoint(worker, SlotWish::AnyPort);
    wish.health_check = Some(check());
    let opened = store
        .open_endpoints(&[wish.clone()])
        .await
        .unwrap()
        .remove(0);
    let circuit = opened.unwrap().circuit;
    assert_eq!(circuit.health_check, Some(check()));
    assert_eq!(store.circuit(circuit.id).await.unwrap().unwrap(), circuit);

    let slower = HealthCheck {
        interval: 30.0,
        ..check()
    };
    wish.health_check = Some(slower.clone());
    for _ in 0..2 {
        let again = store
            .open_endpoints(&[wish.clone()])
            .await
            .unwrap()
            .remove(0);
        assert_eq!(again.unwrap().circuit.health_check, Some(slower.clone()));
    }
    store.set_health_check(wish.id, None).await.unwrap();
    let events = store.events_after(worker, 0, 10).await.unwrap().unwrap();
    let told: Vec<Option<HealthCheck>> = events
        .into_iter()
        .map(|event| match event.event.change {
            Change::Created(circuits) => circuits[0].health_check.clone(),
            Change::RouteUpdated(circuit, _) => circuit.health_check,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [Some(check()), Some(slower), None]);
    let held = store.worker_circuits(worker).await.unwrap().unwrap();
    assert_eq!(held.circuits[0].health_check, None);
}

/// The circuit is stored as it was answered, and so does the event of its generation say.
async fn assert_kept_and_told(store: &dyn Store, rerouted: &Rerouted, request: &str) {
    let kept = store.circuit(rerouted.circuit.id).await.unwrap().unwrap();
    assert_eq!(kept, rerouted.circuit);
    assert!(kept.updated_at > kept.created_at);
    let events = store
        .events_after(kept.worker, rerouted.generation - 1, 1)
        .await
        .unwrap();
    let event = events.unwrap().remove(0);
    assert_eq!(event.request_id.as_deref(), Some(request));
    let routes = kept.route_info.clone();
    assert_eq!(
        event.event.change,
        Change::RouteUpdated(Box::new(kept), routes)
    );
}

pub(super) async fn routes_come_change_and_go(bench: Bench) {
    let store = &*bench.store;
    let worker = store.register_worker(&registration("w")).await.unwrap().id;
    let wishes = [(); 2].map(|()| endpoint(worker, SlotWish::AnyPort));
    store.open_endpoints(&wishes).await.unwrap();
    let [one, two] = [wishes[0].id, wishes[1].id];
    let (a, b) = (route(1), route(2));
    let ids = |routes: &[&Route]| routes.iter().filter_map(|r| r.route_id).collect::<Vec<_>>();
    let changes = [
        (two, RouteChange::Replace(vec![a.clone()])),
        (EndpointId::random(), RouteChange::Replace(vec![])),
        (one, RouteChange::Register(vec![a.clone(), b.clone()])),
    ];
    let done = store
        .change_routes(&changes, &asked("req-7"))
        .await
        .unwrap();
    assert_eq!(done.outcomes[1], Err(RoutesRefused::NoCircuit));
    assert_eq!(done.outcomes[2].as_ref().unwrap().changed, ids(&[&a, &b]));
    let generations: Vec<u64> = done.circuits.iter().map(|c| c.generation).collect();
    assert_eq!(generations, [3, 4]);
    for rerouted in &done.circuits {
        assert_kept_and_told(store, rerouted, "req-7").await;
    }

    let moved = Route {
        kernel_port: 99,
        ..b.clone()
    };
    let mut unfit = a.clone();
    unfit.kernel_host = Some("h".repeat(256));
    let stranger = RouteId::random();
    let changes = [
        (one, RouteChange::Register(vec![a.clone(), moved.clone()])),
        (two, RouteChange::Replace(vec![unfit])),
        (two, RouteChange::Replace(vec![a.clone()])),
        (
            one,
            RouteChange::Unregister(vec![a.route_id.unwrap(), stranger]),
        ),
    ];
    let done = store.change_routes(&changes, &nobody()).await.unwrap();
    let registered = done.outcomes[0].as_ref().unwrap();
    assert_eq!(
        (&registered.changed, &registered.unchanged),
        (&ids(&[&b]), &ids(&[&a]))
    );
    assert!(matches!(done.outcomes[1], Err(RoutesRefused::Unfit(_))));
    let dropped = done.outcomes[3].as_ref().unwrap();
    assert_eq!(
        (&dropped.changed, &dropped.unchanged),
        (&ids(&[&a]), &vec![stranger])
    );
    assert_eq!(
        done.circuits.len(),
        1,
        "the other endpoint's routes are as they were"
    );
    assert_eq!(done.circuits[0].circuit.route_info, [moved]);
    assert_eq!(store.generation(worker).await.unwrap(), 5);
}

pub(super) async fn endpoints_and_circuits_end_together(bench: Bench) {
    let store = &*bench.store;
    let worker = store.register_worker(&registration("w")).await.unwrap().id;
    let wishes = [(); 3].map(|()| endpoint(worker, SlotWish::AnyPort));
    let opened = store.open_endpoints(&wishes).await.unwrap();
    let ids = [wishes[2].id, EndpointId::random(), wishes[0].id];
    let closed = store.delete_endpoints(&ids, &asked("req-9")).await.unwrap();
    let mut generations: Vec<u64> = closed.iter().map(|closed| closed.generation).collect();
    generations.sort_unstable();
    assert_eq!(generations, [4, 5]);
    assert_eq!(store.delete_endpoints(&ids, &nobody()).await.unwrap(), []);
    let left = wishes.iter().map(|wish| wish.id).collect::<Vec<_>>();
    let left = store.endpoint_circuits(&left).await.unwrap();
    assert_eq!(left, [opened[1].clone().unwrap().circuit]);

    let both = [CircuitId::random(), left[0].id];
    let closed = store.close_circuits(&both, &nobody()).await.unwrap();
    assert_eq!((closed.len(), closed[0].generation), (1, 6));
    assert!(
        store.set_health_check(wishes[1].id, None).await.unwrap(),
        "the endpoint stays"
    );
    let worker = store.worker(worker).await.unwrap().unwrap();
    assert_eq!(worker.occupied_slots, 0);

    let person = circuit_on(worker.id, SlotWish::AnyPort);
    let opened = store.open_circuit(&person).await.unwrap();
    let held = store.session_circuits(person.session_ids[0]).await.unwrap();
    assert_eq!(held, [opened.circuit]);
}

#[tokio::test]
async fn openers_of_the_same_thousand_endpoints_at_once_share_them() {
    let bench = Bench::in_postgres().await;
    let stores = [&bench.store, &bench.other];
    let domain = at_domain("w");
    let worker = stores[0].register_worker(&domain).await.unwrap().id;
    let mut wishes: Vec<_> = (0..1_000)
        .map(|_| endpoint(worker, SlotWish::Subdomain("llm".to_owned())))
        .collect();
    wishes[0].health_check = Some(check());
    let mut backwards = wishes.clone();
    backwards.reverse();
    let (one, two) = tokio::join!(
        stores[0].open_endpoints(&wishes),
        stores[1].open_endpoints(&backwards)
    );
    let ids = |opened: Vec<Option<Opened>>| -> Vec<CircuitId> {
        opened
            .into_iter()
            .map(|opened| opened.unwrap().circuit.id)
            .collect()
    };
    let mut two = ids(two.unwrap());
    two.reverse();
    assert_eq!(ids(one.unwrap()), two);
    assert_eq!(assert_slots_are_unique(&**stores[0], worker).await, 1_000);
    assert_eq!(stores[0].generation(worker).await.unwrap(), 1_000);

    // The one form that Python coordinators read back (contract/database.md §4).
    let Place::Server(database) = &bench.place else {
        unreachable!("it was made in PostgreSQL")
    };
    let client = database.connect().await.unwrap();
    let sql = "SELECT jsonb_typeof(health_check_config) AS form, count(*) FROM endpoints \
               GROUP BY form ORDER BY form";
    let forms = client.query(sql, &[]).await.unwrap();
    let forms: Vec<(String, i64)> = forms.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(forms, [("null".to_owned(), 999), ("string".to_owned(), 1)]);
}
