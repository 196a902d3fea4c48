//! The Manager speaks the coordinator's own words: it maps a session's service, moves it when the
//! kernel moves, and ends it with the session.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_common::id::{CircuitId, SessionId};
use patchbay_tests::app::App;
use patchbay_tests::browser::Browser;
use patchbay_tests::eventually::eventually;
use patchbay_tests::opener::Opened;
use patchbay_tests::rig::{Parts, Rig, enter};
use reqwest::Method;
use serde_json::{Value, json};

/// Within this a change reaches the worker.
const EFFECT: Duration = Duration::from_secs(2);

async fn call(rig: &Rig, method: Method, path: &str, body: Value) -> Result<(u16, Value)> {
    let mut request = rig.opener.client().request(method, rig.opener.at(path));
    if !body.is_null() {
        request = request.json(&body);
    }
    let answer = rig.opener.authorized(request).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

async fn from_mapping_to_end(parts: Parts) -> Result<()> {
    let rig = Rig::start(parts).await?;
    let session = SessionId::random();
    let order = json!({
        "session_id": session, "service": "jupyter", "protocol": "http",
        "kernel_host": rig.app.address.ip(), "kernel_port": rig.app.address.port(),
    });
    let (status, route) = call(&rig, Method::POST, "/routes", order.clone()).await?;
    ensure!(status == 201, "{status}: {route}");
    let circuit: CircuitId = route["id"].as_str().context("no id")?.parse()?;
    let setup = route["setup_url"].as_str().context("no setup_url")?;
    let browser = Browser::new()?;
    let opened = Opened {
        circuit,
        setup: setup.to_owned(),
        reuse: false,
    };
    let url = enter(&browser, &opened).await?;
    ensure!(route["url"] == url.as_str(), "{route} leads to {url}");
    browser
        .get(&format!("{url}/hello?first"))
        .await?
        .expect(200)?;
    assert_eq!(rig.app.seen("/hello").len(), 1);
    let (status, again) = call(&rig, Method::POST, "/routes", order.clone()).await?;
    ensure!(
        (status, &again["id"]) == (200, &route["id"]),
        "{status}: {again}"
    );

    // The session moves to another kernel; the user's address and permit stay what they are.
    let kernel = App::start().await?;
    let moved = json!({
        "kernel_host": kernel.address.ip(), "kernel_port": kernel.address.port(),
    });
    let path = format!("/routes/{circuit}");
    let (status, answer) = call(&rig, Method::PUT, &path, moved).await?;
    ensure!(status == 200, "{status}: {answer}");
    eventually("requests reach the new kernel", EFFECT, async || {
        browser.get(&format!("{url}/hello")).await?.expect(200)?;
        ensure!(!kernel.seen("/hello").is_empty(), "not yet");
        Ok(())
    })
    .await?;
    let (status, conflict) = call(&rig, Method::POST, "/routes", order).await?;
    ensure!(status == 409, "{status}: {conflict}");
    ensure!(
        conflict["data"]["holder"]["id"] == route["id"],
        "{conflict}"
    );

    let path = format!("/routes?session_id={session}");
    let (status, answer) = call(&rig, Method::DELETE, &path, Value::Null).await?;
    ensure!(
        (status, &answer["closed"]) == (200, &json!(1)),
        "{status}: {answer}"
    );
    eventually("the route is gone", EFFECT, async || {
        browser.get(&format!("{url}/hello")).await?.expect(400)
    })
    .await?;
    the_end_is_told(&rig, session).await
}

/// No route is left, and the audit knows why.
async fn the_end_is_told(rig: &Rig, session: SessionId) -> Result<()> {
    let listed = rig.opener.read("/routes").await?;
    ensure!(listed["routes"] == json!([]), "{listed}");
    let audit = rig
        .opener
        .read(&format!("/api/audit?session={session}"))
        .await?;
    let actions = audit["entries"].as_array().context("no entries")?;
    let actions: Vec<&Value> = actions.iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["closed", "rerouted", "opened"]);
    Ok(())
}

#[tokio::test]
async fn with_sqlite_and_the_stream() -> Result<()> {
    from_mapping_to_end(Parts::embedded()).await
}

#[tokio::test]
async fn with_postgres_and_redis_by_subdomain() -> Result<()> {
    from_mapping_to_end(Parts::servers().wildcard()).await
}
