use std::sync::Arc;

use patchbay_common::circuit::{AppMode, Circuit, FrontendMode, Protocol};
use patchbay_common::event::Change;
use patchbay_common::grant::Revocation;
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::permit::{PermitError, cookie_name};
use patchbay_common::token::{SetupClaims, TokenError};

use super::{Answer, Ask, Setup, SetupError, TicketError, Tickets};
use crate::config::Config;
use crate::sync::Coordinator;
use crate::sync::trial::{FakeCoordinator, circuit, config, config_of};
use crate::table::Table;

const NOW: u64 = 1_800_000_000;

struct Room {
    config: Config,
    table: Arc<Table>,
    setup: Setup,
    tickets: Tickets,
    coordinator: FakeCoordinator,
}

impl Room {
    async fn new(more: &str) -> Self {
        let coordinator = FakeCoordinator::start().await;
        let config = config(coordinator.address, more);
        Self::of(config, coordinator)
    }

    async fn wildcard(more: &str) -> Self {
        let coordinator = FakeCoordinator::start().await;
        let text = format!(
            "[proxy_worker]\ncoordinator_endpoint = \"http://{}\"\nauthority = \"worker-1\"\n\
             frontend_mode = \"wildcard\"\nprotocol = \"http\"\ntls_advertised = true\n\
             accepted_traffics = [\"interactive\"]\n[proxy_worker.wildcard_domain]\n\
             domain = \".apps.example\"\nadvertised_port = 443\n\
             bind_addr = {{ host = \"127.0.0.1\", port = 10250 }}\n",
            coordinator.address
        );
        Self::of(config_of(&text, more), coordinator)
    }

    fn of(config: Config, coordinator: FakeCoordinator) -> Self {
        let table = Arc::new(Table::new());
        let client = Coordinator::new(&config).unwrap();
        Self {
            setup: Setup::new(&config, Arc::clone(&table), client),
            tickets: Tickets::new(&config),
            config,
            table,
            coordinator,
        }
    }

    fn serve(&self, circuit: &Circuit) {
        self.table.apply(&Change::Created(vec![circuit.clone()]));
    }

    fn token(&self, circuit: CircuitId, redirect: Option<&str>) -> String {
        let claims = SetupClaims {
            id: None,
            version: Some("v2".into()),
            redirect: redirect.map(Into::into),
            circuit,
            jti: Some(format!("grant-of-{}", circuit.0.simple())),
        };
        self.config.tokens.sign(&claims).unwrap()
    }

    async fn ask(&self, token: &str, host: &str) -> Result<Answer, SetupError> {
        let ask = Ask {
            token,
            host: Some(host),
            worker: Some(circuit(1).worker),
            now: NOW,
        };
        self.setup.answer(ask).await
    }

    fn verifies(&self, cookie: &str, circuit: &Circuit) {
        let (name, rest) = cookie.split_once('=').unwrap();
        assert_eq!(name, cookie_name(circuit.id));
        let value = rest.split(';').next().unwrap();
        let key = &self.config.permits;
        let verify = |now| key.verify(value, circuit.id, circuit.user_id, now);
        let good = |now| verify(now).map(|permit| permit.grant);
        let name = format!("grant-of-{}", circuit.id.0.simple());
        assert_eq!(good(NOW + 604_799), Ok(name.as_str()));
        assert_eq!(good(NOW + 604_800), Err(PermitError::Expired));
    }
}

fn redirect(answer: Answer) -> (String, Vec<String>) {
    match answer {
        Answer::Redirect { location, cookies } => (location, cookies),
        Answer::Gateway(_) => panic!("{answer:?}"),
    }
}

fn redeem(room: &Room, location: &str, circuit: &Circuit, now: u64) -> Result<String, TicketError> {
    let (_, ticket) = location.split_once("/.patchbay/permit?ticket=").unwrap();
    let live = room.table.by_id(circuit.id).unwrap();
    let redeemed = room.tickets.redeem(ticket, &live, now)?;
    let [cookie] = redeemed.set_cookie.as_slice() else {
        panic!("one cookie");
    };
    room.verifies(cookie, circuit);
    Ok(redeemed.location)
}

#[tokio::test]
async fn on_the_apps_host_the_cookie_is_set_at_once() {
    let room = Room::new("").await;
    let circuit = circuit(10_205);
    room.serve(&circuit);
    let token = room.token(circuit.id, Some("/lab?x=1"));
    let (location, cookies) = redirect(room.ask(&token, "127.0.0.1").await.unwrap());
    assert_eq!(location, "http://127.0.0.1:10205/lab?x=1");
    let [cookie] = cookies.as_slice() else {
        panic!("{cookies:?}");
    };
    assert!(cookie.ends_with("; HttpOnly; Max-Age=604800; Path=/; SameSite=Lax"));
    room.verifies(cookie, &circuit);
}

#[tokio::test]
async fn from_another_host_a_ticket_leads_to_the_cookie_once() {
    let room = Room::new("").await;
    let (circuit, other) = (circuit(10_205), circuit(10_206));
    room.serve(&circuit);
    room.serve(&other);
    let token = room.token(circuit.id, Some("//evil.example/lab"));
    let (location, cookies) = redirect(room.ask(&token, "worker.example").await.unwrap());
    assert!(location.starts_with("http://127.0.0.1:10205/.patchbay/permit?ticket="));
    assert!(cookies.is_empty());
    assert_eq!(
        redeem(&room, &location, &other, NOW),
        Err(TicketError::Permit(PermitError::Foreign))
    );
    assert_eq!(
        redeem(&room, &location, &circuit, NOW + 30),
        Err(TicketError::Permit(PermitError::Expired))
    );
    let path = redeem(&room, &location, &circuit, NOW).unwrap();
    assert_eq!(path, "/evil.example/lab");
    let again = redeem(&room, &location, &circuit, NOW);
    assert_eq!(again, Err(TicketError::Used));
}

#[tokio::test]
async fn what_comes_of_a_revoked_grant_is_refused() {
    let room = Room::new("").await;
    let mut circuit = circuit(10_205);
    room.serve(&circuit);
    let token = room.token(circuit.id, None);
    let (location, _) = redirect(room.ask(&token, "worker.example").await.unwrap());
    let name = format!("grant-of-{}", circuit.id.0.simple());
    let revocation = Revocation::Name(name, None);
    circuit.revocations.add(&revocation, NOW).unwrap();
    room.serve(&circuit);
    let refused = room.ask(&token, "127.0.0.1").await;
    assert!(matches!(refused, Err(SetupError::Revoked)), "{refused:?}");
    let ticket = redeem(&room, &location, &circuit, NOW);
    assert_eq!(ticket, Err(TicketError::Revoked));
}

#[tokio::test]
async fn a_wildcard_app_is_always_reached_by_ticket() {
    let room = Room::wildcard("").await;
    let mut circuit = circuit(1);
    circuit.frontend_mode = FrontendMode::Wildcard;
    circuit.subdomain = Some("my-app".into());
    room.serve(&circuit);
    let token = room.token(circuit.id, None);
    let (location, cookies) = redirect(room.ask(&token, "my-app.apps.example").await.unwrap());
    assert!(location.starts_with("https://my-app.apps.example:443/.patchbay/permit?ticket="));
    assert!(cookies.is_empty());
    let ticket = location.split_once("ticket=").unwrap().1;
    let live = room.table.by_id(circuit.id).unwrap();
    let redeemed = room.tickets.redeem(ticket, &live, NOW).unwrap();
    assert_eq!(redeemed.location, "/");
    assert!(redeemed.set_cookie[0].ends_with("; SameSite=Lax; Secure"));
}

#[tokio::test]
async fn the_legacy_cookie_is_set_as_the_incumbent_sets_it() {
    let room = Room::new("[permit]\nlegacy = true\n").await;
    let circuit = circuit(10_205);
    room.serve(&circuit);
    let token = room.token(circuit.id, Some(""));
    let (location, cookies) = redirect(room.ask(&token, "127.0.0.1").await.unwrap());
    assert_eq!(location, "http://127.0.0.1:10205");
    let legacy = room.config.permits.legacy(circuit.user_id.unwrap());
    let expected =
        format!("appproxy_permit=\"{legacy}\"; HttpOnly; Max-Age=604800; Path=/; SameSite=Lax");
    assert_eq!(cookies[0], expected);

    let room = Room::wildcard("[permit]\nlegacy = true\n").await;
    let mut circuit = circuit;
    circuit.frontend_mode = FrontendMode::Wildcard;
    circuit.subdomain = Some("a".into());
    room.serve(&circuit);
    let token = room.token(circuit.id, None);
    let (_, cookies) = redirect(room.ask(&token, "api.example").await.unwrap());
    assert!(cookies[0].contains("\"; Domain=.apps.example; HttpOnly; Max-Age=604800;"));
    assert!(cookies[0].ends_with("; Secure"));
}

#[tokio::test]
async fn an_unknown_circuit_is_asked_for_and_must_be_ours() {
    let room = Room::new("").await;
    let (ours, mut other) = (circuit(10_205), circuit(10_206));
    other.worker = WorkerId::random();
    for circuit in [&ours, &other] {
        room.coordinator
            .commit(Change::Created(vec![circuit.clone()]));
    }
    let ask = async |id| room.ask(&room.token(id, None), "127.0.0.1").await;
    assert!(ask(ours.id).await.is_ok());
    assert!(matches!(ask(other.id).await, Err(SetupError::NoCircuit)));
    let unknown = ask(CircuitId::random()).await;
    assert!(matches!(unknown, Err(SetupError::NoCircuit)));
    room.coordinator.kill().await;
    let unreachable = ask(ours.id).await;
    assert!(matches!(unreachable, Err(SetupError::Coordinator(_))));
}

#[tokio::test]
async fn tcp_apps_are_told_where_their_port_is() {
    let room = Room::new("").await;
    let mut circuit = circuit(10_205);
    circuit.protocol = Protocol::Tcp;
    room.serve(&circuit);
    let token = room.token(circuit.id, Some(""));
    let start =
        format!("http://localhost:45678/start?directTCP=true&auth={token}&proto=tcp&gateway=");
    assert_eq!(
        room.ask(&token, "127.0.0.1").await.unwrap(),
        Answer::Gateway(start + "tcp%3A%2F%2F127.0.0.1%3A10205")
    );
    let token = room.token(circuit.id, Some("/x"));
    let (location, cookies) = redirect(room.ask(&token, "127.0.0.1").await.unwrap());
    assert!(location.ends_with("&proto=tcp&gateway=tcp://127.0.0.1:10205"));
    assert!(cookies.is_empty());
}

#[tokio::test]
async fn what_cannot_be_set_up_is_refused_with_its_reason() {
    let room = Room::new("").await;
    let mut inference = circuit(10_205);
    inference.app_mode = AppMode::Inference;
    let mut grpc = circuit(10_206);
    grpc.protocol = Protocol::Grpc;
    room.serve(&inference);
    room.serve(&grpc);
    let ask = async |token: String| room.ask(&token, "127.0.0.1").await;
    assert!(matches!(
        ask(room.token(inference.id, None)).await,
        Err(SetupError::Inference)
    ));
    assert!(matches!(
        ask(room.token(grpc.id, None)).await,
        Err(SetupError::Protocol)
    ));
    assert!(matches!(
        ask("garbage".into()).await,
        Err(SetupError::Token(TokenError::Segments))
    ));
}
