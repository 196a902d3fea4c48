//! In an installation that is moved over part by part, our worker stands under the incumbent's
//! coordinator: it says what that one expects and reads what that one sends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_common::circuit::Circuit;
use patchbay_common::event::Change;
use patchbay_common::token::SetupClaims;
use patchbay_tests::app::App;
use patchbay_tests::browser::Browser;
use patchbay_tests::eventually::eventually;
use patchbay_tests::incumbent::{Incumbent, Wire, route};
use patchbay_tests::redis::RedisServer;
use patchbay_tests::secrets;
use patchbay_tests::worker::{Frontend, Plan, Worker};
use serde_json::json;

const SOON: Duration = Duration::from_secs(3);

struct House {
    worker: Worker,
    coordinator: Incumbent,
    redis: RedisServer,
    app: App,
    browser: Browser,
    _folder: tempfile::TempDir,
}

impl House {
    async fn new(more: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let coordinator = Incumbent::start().await?;
        let redis = RedisServer::start().await?;
        let address = coordinator.address;
        let mut plan = Plan::new(Frontend::Ports(4), format!("http://{address}"));
        plan.redis = redis.section();
        plan.more = more.into();
        Ok(Self {
            worker: Worker::start(folder.path(), &plan).await?,
            coordinator,
            redis,
            app: App::start().await?,
            browser: Browser::new()?,
            _folder: folder,
        })
    }

    async fn publish(&self, wire: Wire, authority: &str, change: Change) -> Result<()> {
        let redis = &self.redis;
        self.coordinator
            .publish(redis, wire, authority, change)
            .await
    }

    async fn answers(&self, circuit: &Circuit, status: u16) -> Result<()> {
        let port = circuit.port.context("no port")?;
        let url = format!("http://127.0.0.1:{port}/hello");
        let what = format!("{url} answers {status}");
        eventually(&what, SOON, async || {
            self.browser.get(&url).await?.expect(status)?;
            Ok(())
        })
        .await
    }

    fn new_circuit(&self, nth: u16) -> Circuit {
        let port = self.worker.slots.first() + nth;
        self.coordinator.circuit(port, self.app.address)
    }
}

async fn events_are_read_and_answered(wire: Wire) -> Result<()> {
    let house = House::new("").await?;
    let mut events = house.redis.listen().await?;
    let circuit = house.new_circuit(0);
    let created = Change::Created(vec![circuit.clone()]);
    house.publish(wire, "worker-1", created).await?;

    // The opener waits for this answer, which both kinds of readers must understand.
    let added = |change: &Change| matches!(change, Change::Added(_));
    let (answer, raw) = events.next(|message| added(&message.event.change)).await?;
    assert_eq!(answer.event.authority, "worker-1");
    ensure!(raw.contains(&circuit.id.to_string()), "{raw}");
    let raw: serde_json::Value = serde_json::from_str(&raw)?;
    ensure!(
        raw["args"].is_string() && raw["payload"].is_string(),
        "{raw}"
    );
    ensure!(raw["metadata"].is_string(), "{raw}");
    // Acknowledged means ready.
    let url = format!("http://127.0.0.1:{}/hello", house.worker.slots.first());
    house.browser.get(&url).await?.expect(200)?;

    let elsewhere = App::start().await?;
    let routes = vec![route(circuit.session_ids[0], elsewhere.address)];
    let updated = Change::RouteUpdated(Box::new(circuit.clone()), routes.clone());
    house.coordinator.books().circuits[0].route_info = routes;
    house.publish(wire, "worker-1", updated).await?;
    eventually("the new route is taken", SOON, async || {
        house.browser.get(&url).await?.expect(200)?;
        ensure!(!elsewhere.seen("/hello").is_empty(), "not yet");
        Ok(())
    })
    .await?;

    house.coordinator.books().circuits.clear();
    let removed = Change::Removed(vec![circuit.clone()]);
    house.publish(wire, "worker-1", removed).await?;
    house.answers(&circuit, 400).await
}

#[tokio::test]
async fn of_releases_up_to_26_8() -> Result<()> {
    events_are_read_and_answered(Wire::Args).await
}

#[tokio::test]
async fn of_later_releases() -> Result<()> {
    events_are_read_and_answered(Wire::Payload).await
}

#[tokio::test]
async fn the_worker_registers_beats_and_leaves() -> Result<()> {
    let mut house = House::new("").await?;
    let body = house.coordinator.books().registrations[0].clone();
    for (key, value) in [
        ("authority", json!("worker-1")),
        ("frontend_mode", json!("port")),
        ("protocol", json!("http")),
        ("hostname", json!("127.0.0.1")),
        ("tls_listen", json!(false)),
        ("tls_advertised", json!(false)),
        ("api_port", json!(house.worker.port())),
        ("accepted_traffics", json!(["interactive", "inference"])),
        ("filtered_apps_only", json!(false)),
        ("app_filters", json!([])),
        ("traefik_last_used_marker_path", json!(null)),
        (
            "port_range",
            json!([house.worker.slots.first(), house.worker.slots.last()]),
        ),
    ] {
        assert_eq!(body.get(key), Some(&value), "{key} in {body}");
    }
    eventually("it beats", SOON, async || {
        ensure!(house.coordinator.books().heartbeats >= 2, "not yet");
        Ok(())
    })
    .await?;
    house.worker.program.stop(Duration::from_secs(5)).await?;
    let books = house.coordinator.books();
    assert_eq!(
        (books.departures, books.strangers, books.registrations.len()),
        (1, 0, 1)
    );
    Ok(())
}

#[tokio::test]
async fn a_lost_event_is_made_up_for() -> Result<()> {
    let house = House::new("[sync]\nrefetch_interval = 1\n").await?;
    let circuit = house.new_circuit(0);
    house.answers(&circuit, 200).await?;
    house.coordinator.books().circuits.clear();
    house.answers(&circuit, 400).await
}

#[tokio::test]
async fn messages_for_others_and_nonsense_do_no_harm() -> Result<()> {
    let house = House::new("").await?;
    let (others, own) = (house.new_circuit(0), house.new_circuit(1));
    // Out of the books, so that no fetch brings what only an event should.
    house.coordinator.books().circuits.clear();
    let channel = patchbay_common::event::CHANNEL;
    for nonsense in [
        "",
        "{",
        "null",
        "[]",
        "{\"name\":\"appproxy_circuit_created_event\"}",
        "{\"name\":\"appproxy_circuit_created_event\",\"source\":\"x\",\"payload\":\"{}\"}",
        "{\"name\":\"appproxy_circuit_created_event\",\"source\":\"x\",\"args\":\"AAAA\"}",
        "{\"name\":\"session_started\",\"source\":\"manager\",\"payload\":\"{}\"}",
    ] {
        house.redis.command(&["PUBLISH", channel, nonsense]).await?;
    }
    let created = |circuit: &Circuit| Change::Created(vec![circuit.clone()]);
    house
        .publish(Wire::Payload, "worker-2", created(&others))
        .await?;
    house.coordinator.books().circuits.push(own.clone());
    house
        .publish(Wire::Payload, "worker-1", created(&own))
        .await?;
    house.answers(&own, 200).await?;
    house.answers(&others, 400).await
}

#[tokio::test]
async fn its_setup_links_are_good() -> Result<()> {
    let house = House::new("").await?;
    let mut circuit = house.new_circuit(0);
    circuit.open_to_public = false;
    house.coordinator.books().circuits[0] = circuit.clone();
    let created = Change::Created(vec![circuit.clone()]);
    house.publish(Wire::Payload, "worker-1", created).await?;
    house.answers(&circuit, 401).await?;
    let claims = SetupClaims {
        id: None,
        version: Some("v2".into()),
        redirect: Some("/hello".into()),
        circuit: circuit.id,
        jti: None,
    };
    let token = secrets::token_key().sign(&claims)?;
    let setup = format!("{}/setup?token={token}", house.worker.url());
    let way = house.browser.visit(&setup).await?;
    assert_eq!(way.last().context("no page")?.text(), "hello from the app");
    Ok(())
}

#[tokio::test]
async fn a_circuit_may_lead_to_a_host_without_a_name() -> Result<()> {
    // `kernel_host` null means the worker's own machine, which may mean ::1 first.
    let house = House::new("").await?;
    let mut circuit = house.new_circuit(0);
    circuit.route_info[0].kernel_host = None;
    let listening: SocketAddr = house.app.address;
    ensure!(listening.ip().is_loopback());
    let created = Change::Created(vec![circuit.clone()]);
    house.publish(Wire::Args, "worker-1", created).await?;
    house.answers(&circuit, 200).await
}
