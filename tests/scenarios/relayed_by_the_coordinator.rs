//! Clients that can reach only the coordinator work all the same: their requests, streams and
//! WebSockets are carried to the worker, under one request id.

use anyhow::{Context as _, Result, ensure};
use futures_util::SinkExt as _;
use patchbay_common::request_id::HEADER;
use patchbay_tests::app::{digest, download};
use patchbay_tests::browser::Browser;
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::secrets;
use patchbay_tests::socket;
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const RELAY: &str = "[relay]\nenabled = true\n";

/// Opens an app and goes through the handshake by way of the coordinator alone.
async fn enter(rig: &Rig, name: &str) -> Result<Door> {
    let order = rig.order(name);
    let opened = rig.opener.open(&order).await?;
    let setup = Url::parse(&opened.setup)?;
    let query = setup.query().context("no token")?;
    let base = rig.coordinator.url();
    let browser = Browser::new()?;
    let mut next = format!("{base}/apps/_/setup?{query}");
    let prefix = format!("/apps/{}/{name}", opened.circuit);
    // One step where slots are ports; with subdomains a ticket lies between.
    for _ in 0..2 {
        let answer = browser.get(&next).await?.expect(302)?;
        let location = answer.header("location").to_owned();
        ensure!(location.starts_with(&prefix), "it leads away: {location}");
        next = format!("{base}{location}");
        if !location.contains("/.patchbay/") {
            break;
        }
    }
    Ok(Door {
        circuit: opened.circuit,
        url: format!("{base}{prefix}"),
        browser,
        order,
        opened,
    })
}

async fn works(rig: &Rig, door: &Door) -> Result<()> {
    let request = door.browser.request(Method::GET, &door.at("/a%2Fb?x=1"))?;
    let answer = door
        .browser
        .send(request.header(HEADER, "relayed-1"))
        .await?;
    let answer = answer.expect(200)?;
    ensure!(answer.header(HEADER) == "relayed-1", "{:?}", answer.headers);
    let seen = rig.app.seen("/a%2Fb");
    let seen = seen.first().context("the app saw nothing")?;
    ensure!(seen.uri.query() == Some("x=1"), "{seen:?}");
    ensure!(seen.header(HEADER) == "relayed-1", "{seen:?}");
    ensure!(
        seen.header("cookie").is_empty(),
        "the permit reached the app: {seen:?}"
    );
    for program in [&rig.worker.program, &rig.coordinator.program] {
        program.logged(&["relayed-1"]).await?;
    }

    let body = download(1 << 20);
    let request = door.browser.request(Method::POST, &door.at("/upload"))?;
    let answer = door
        .browser
        .send(request.body(body.clone()))
        .await?
        .expect(200)?;
    ensure!(answer.text().contains(&digest(&body)), "{}", answer.text());
    let answer = door.get("/download/1000000").await?.expect(200)?;
    ensure!(
        answer.body == download(1_000_000),
        "the download is another"
    );

    for _ in 0..20 {
        let (mut socket, _) = socket::open(door, "/ws/first", &[]).await?;
        let first = socket::next(&mut socket).await?;
        ensure!(first == Message::text("the app speaks first"), "{first:?}");
    }
    let id = [(HEADER, "relayed-2")];
    let (mut socket, shaken) = socket::open(door, "/ws/echo", &id).await?;
    ensure!(shaken.headers()[HEADER] == "relayed-2", "{shaken:?}");
    for message in [Message::text("short"), Message::binary(download(1 << 18))] {
        socket.send(message.clone()).await?;
        ensure!(
            socket::next(&mut socket).await? == message,
            "another message"
        );
    }
    ensure!(
        rig.app.seen("/ws/echo")[0].header(HEADER) == "relayed-2",
        "another id"
    );
    Ok(())
}

#[tokio::test]
async fn an_app_on_a_port_works() -> Result<()> {
    let mut rig = Rig::start(Parts::embedded().coordinator(RELAY)).await?;
    let door = enter(&rig, "jupyter").await?;
    works(&rig, &door).await?;

    let by_session = Door {
        url: format!(
            "{}/apps/{}/jupyter",
            rig.coordinator.url(),
            door.order.session
        ),
        ..door.clone()
    };
    by_session.get("/hello").await?.expect(200)?;

    let stranger = Browser::new()?;
    let refused = stranger.get(&door.at("/hello")).await?;
    ensure!(
        refused.status == 401 || refused.status == 403,
        "{}",
        refused.status
    );
    let request = stranger.request(Method::GET, &door.at("/hello"))?;
    let keyed = stranger
        .send(request.header("x-backendai-token", secrets::API))
        .await?;
    ensure!(
        keyed.status == refused.status,
        "the API's secret opened an app"
    );
    rig.worker.program.kill().await?;
    let unreachable = door.get("/hello").await?.expect(502)?;
    ensure!(
        unreachable.text().contains("Worker not reachable."),
        "{}",
        unreachable.text()
    );
    rig.opener.close(door.circuit).await?;
    door.get("/hello").await?.expect(404)?;
    Ok(())
}

#[tokio::test]
async fn an_app_on_a_subdomain_works() -> Result<()> {
    let rig = Rig::start(Parts::embedded().wildcard().coordinator(RELAY)).await?;
    let door = enter(&rig, "jupyter").await?;
    works(&rig, &door).await
}

#[tokio::test]
async fn the_hosting_worker_is_told_and_nothing_is_relayed_unasked() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let order = json!({"session_id": door.order.session, "app": "jupyter"});
    let request = rig
        .opener
        .client()
        .post(rig.opener.at("/api/v1/route"))
        .json(&order);
    let answer = rig.opener.authorized(request).send().await?;
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    let told: Value = answer.json().await?;
    ensure!(told["circuit"] == json!(door.circuit), "{told}");
    ensure!(told["worker"]["authority"] == "worker-1", "{told}");
    ensure!(told["url"] == format!("{}/", door.url), "{told}");
    ensure!(told["relay_url"].is_null(), "{told}");
    let url = format!(
        "{}/apps/{}/jupyter/hello",
        rig.coordinator.url(),
        door.circuit
    );
    door.browser.get(&url).await?.expect(404)?;
    Ok(())
}
