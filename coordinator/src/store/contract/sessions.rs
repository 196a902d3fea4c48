//! Circuits by what they are, and what a session's moving and ending does to them.

use patchbay_common::circuit::AppMode;
use patchbay_common::event::Change;
use patchbay_common::id::{CircuitId, EndpointId, ProjectId, RouteId, SessionId, TokenId, UserId};
use patchbay_common::route::Route;
use patchbay_common::worker::{Registration, Worker};

use super::{Bench, asked, circuit_on, open, port_worker, subdomain, wildcard_worker};
use crate::store::{
    CircuitFilter, NewCircuit, NewEndpoint, RouteChange, SessionToken, SlotWish, Store,
};

async fn worker(store: &dyn Store) -> Worker {
    let registration = Registration {
        accepted_traffics: vec![AppMode::Interactive, AppMode::Inference],
        ..port_worker("w", (20000, 20009))
    };
    store.register_worker(&registration).await.unwrap()
}

/// Opens an endpoint's circuit with a route to each of these sessions.
async fn endpoint(store: &dyn Store, worker: &Worker, sessions: &[SessionId]) -> EndpointId {
    let id = EndpointId::random();
    let new = NewCircuit {
        app_mode: AppMode::Inference,
        endpoint_id: Some(id),
        session_ids: Vec::new(),
        routes: Vec::new(),
        ..circuit_on(worker.id, SlotWish::AnyPort)
    };
    let routes = sessions.iter().map(|session| Route {
        route_id: Some(RouteId::random()),
        session_id: *session,
        ..circuit_on(worker.id, SlotWish::AnyPort).routes[0].clone()
    });
    let endpoint = NewEndpoint {
        id,
        health_check: None,
        circuit: Some(new),
    };
    store.open_endpoints(&[endpoint]).await.unwrap();
    let change = [(id, RouteChange::Replace(routes.collect()))];
    store.change_routes(&change, &asked("req-2")).await.unwrap();
    id
}

pub(super) async fn circuits_are_found_by_what_they_are(bench: Bench) {
    let store = &*bench.store;
    let ports = worker(store).await;
    let wish = wildcard_worker("v", ".apps");
    let names = store.register_worker(&wish).await.unwrap();
    let mut opened = Vec::new();
    for _ in 0..3 {
        opened.push(
            open(store, &ports, SlotWish::AnyPort)
                .await
                .unwrap()
                .circuit,
        );
    }
    opened.push(
        open(store, &names, subdomain("notes"))
            .await
            .unwrap()
            .circuit,
    );
    let session = opened[1].session_ids[0];
    endpoint(store, &ports, &[session, SessionId::random()]).await;
    let any = CircuitFilter::default;
    let count = async |filter: CircuitFilter| store.circuits(&filter, 100).await.unwrap().len();
    assert_eq!(count(any()).await, 5);
    assert_eq!(
        count(CircuitFilter {
            session: Some(session),
            ..any()
        })
        .await,
        2
    );
    let jupyter = Some("jupyter".to_owned());
    assert_eq!(
        count(CircuitFilter {
            app: jupyter,
            worker: Some(names.id),
            ..any()
        })
        .await,
        1
    );
    assert_eq!(
        count(CircuitFilter {
            app: Some("x".to_owned()),
            ..any()
        })
        .await,
        0
    );
    let found = store
        .circuits(
            &CircuitFilter {
                port: Some(20002),
                ..any()
            },
            100,
        )
        .await
        .unwrap();
    assert_eq!(found, opened[2..3]);
    let named = CircuitFilter {
        subdomain: Some("notes".to_owned()),
        ..any()
    };
    assert_eq!(store.circuits(&named, 100).await.unwrap(), opened[3..]);
    pages_hold_each_once(store, 5).await;
}

async fn pages_hold_each_once(store: &dyn Store, all: usize) {
    let any = CircuitFilter::default;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .circuits(&CircuitFilter { after, ..any() }, 2)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.iter().map(|circuit| circuit.id));
    }
    assert!(seen.len() == all && seen.is_sorted());
}

pub(super) async fn a_circuit_leads_elsewhere(bench: Bench) {
    let store = &*bench.store;
    let worker = worker(store).await;
    let circuit = open(store, &worker, SlotWish::AnyPort)
        .await
        .unwrap()
        .circuit;
    let cause = asked("req-2");
    let led = store
        .lead_elsewhere(circuit.id, "10.0.0.9", 77, &cause)
        .await
        .unwrap();
    let led = led.unwrap();
    assert_eq!((led.authority.as_str(), led.generation), ("w", 2));
    let route = &led.circuit.route_info[0];
    assert_eq!(
        (route.kernel_host.as_deref(), route.kernel_port),
        (Some("10.0.0.9"), 77)
    );
    assert_eq!(
        store.circuit(circuit.id).await.unwrap().unwrap(),
        led.circuit
    );
    let told = store.events_after(worker.id, 1, 10).await.unwrap().unwrap();
    assert!(
        matches!(&told[0].event.change, Change::RouteUpdated(_, routes) if routes[0] == *route)
    );
    let nobody = store
        .lead_elsewhere(CircuitId::random(), "h", 1, &cause)
        .await
        .unwrap();
    assert_eq!(nobody, None);
    let id = endpoint(store, &worker, &[SessionId::random()]).await;
    let own = store.endpoint_circuits(&[id]).await.unwrap();
    assert_eq!(
        store
            .lead_elsewhere(own[0].id, "h", 1, &cause)
            .await
            .unwrap(),
        None
    );
}

pub(super) async fn a_session_ends_with_all_it_had(bench: Bench) {
    let store = &*bench.store;
    let worker = worker(store).await;
    let first = open(store, &worker, SlotWish::AnyPort)
        .await
        .unwrap()
        .circuit;
    let other = open(store, &worker, SlotWish::AnyPort)
        .await
        .unwrap()
        .circuit;
    let session = first.session_ids[0];
    let second = NewCircuit {
        session_ids: vec![session],
        ..circuit_on(worker.id, SlotWish::AnyPort)
    };
    store.open_circuit(&second).await.unwrap();
    let shared = endpoint(store, &worker, &[session, other.session_ids[0]]).await;
    let foreign = endpoint(store, &worker, &[other.session_ids[0]]).await;
    let token = |session_id| SessionToken {
        id: TokenId::random(),
        login_session_token: None,
        kernel_host: "h".to_owned(),
        kernel_port: 1,
        session_id,
        user: UserId::random(),
        project: ProjectId::random(),
        access_key: "k".to_owned(),
        domain_name: "d".to_owned(),
    };
    let (gone, kept) = (token(session), token(other.session_ids[0]));
    store.add_token(&gone).await.unwrap();
    store.add_token(&kept).await.unwrap();

    let ended = store.end_session(session, &asked("req-3")).await.unwrap();
    let mut closed: Vec<_> = ended.closed.iter().map(|one| one.circuit.id).collect();
    closed.sort_unstable();
    let mut expected = [first.id, second.id];
    expected.sort_unstable();
    assert_eq!(closed, expected);
    assert_eq!(ended.rerouted.len(), 1);
    assert_eq!(ended.rerouted[0].circuit.endpoint_id, Some(shared));
    assert_eq!(ended.rerouted[0].circuit.route_info.len(), 1);
    let left = store.endpoint_circuits(&[shared]).await.unwrap();
    assert_eq!(left[0].route_info[0].session_id, other.session_ids[0]);
    assert_eq!(
        store.endpoint_circuits(&[foreign]).await.unwrap()[0]
            .route_info
            .len(),
        1
    );
    assert!(store.circuit(other.id).await.unwrap().is_some());
    assert_eq!(store.token(gone.id).await.unwrap(), None);
    assert_eq!(store.token(kept.id).await.unwrap(), Some(kept));
    let held = store.worker_circuits(worker.id).await.unwrap().unwrap();
    let counted = store.worker(worker.id).await.unwrap().unwrap();
    assert_eq!((held.circuits.len(), counted.occupied_slots), (3, 3));
    let again = store.end_session(session, &asked("req-4")).await.unwrap();
    assert_eq!((again.closed.len(), again.rerouted.len()), (0, 0));
    let told = store.generation(worker.id).await.unwrap();
    assert_eq!(told, held.generation);
}
