//! Who holds the secret can ask a worker what became of a request.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::StreamExt as _;
use patchbay_common::request_id::HEADER;
use patchbay_tests::eventually::eventually;
use patchbay_tests::opener::Order;
use patchbay_tests::ports::Ports;
use patchbay_tests::rig::{Parts, Rig};
use patchbay_tests::{secrets, socket};
use reqwest::Method;
use serde_json::Value;

async fn explained(rig: &Rig, id: &str) -> Result<Value> {
    let url = format!("{}/api/explain/{id}", rig.worker.url());
    let client = rig.opener.client();
    let mut request = Value::Null;
    eventually(
        "the request is remembered",
        Duration::from_secs(5),
        async || {
            let asked = client.get(&url).header("x-backendai-token", secrets::API);
            let answer = asked.send().await?;
            ensure!(answer.status() == 200, "{}", answer.status());
            let body: Value = answer.json().await?;
            request = body["requests"][0].clone();
            Ok(())
        },
    )
    .await?;
    Ok(request)
}

#[tokio::test]
async fn of_a_page_a_websocket_and_a_failure() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let request = door
        .browser
        .request(Method::GET, &door.at("/hello?secret=1"))?;
    door.browser
        .send(request.header(HEADER, "a-page"))
        .await?
        .expect(200)?;
    let page = explained(&rig, "a-page").await?;
    assert_eq!(page["circuit"], door.circuit.to_string());
    assert_eq!(page["route"], rig.app.address.to_string());
    assert_eq!(page["chosen_because"], "it is the only route");
    assert_eq!(page["status"], 200);
    assert_eq!(page["path"], "/hello", "queries may hold secrets");
    ensure!(page["admitted_by"].is_string(), "{page}");
    ensure!(page["bytes_out"].as_u64() > Some(0), "{page}");
    ensure!(page["first_byte_seconds"].is_number(), "{page}");
    assert_eq!(page["error"], Value::Null);

    let (mut socket, _) = socket::open(&door, "/ws/echo", &[(HEADER, "a-socket")]).await?;
    socket.close(None).await?;
    while let Some(Ok(_)) = socket.next().await {}
    let websocket = explained(&rig, "a-socket").await?;
    assert_eq!(websocket["kind"], "websocket");
    assert_eq!(websocket["end"], "finished");

    let nobody = Ports::reserve(1)?;
    let kernel = ([127, 0, 0, 1], nobody.first()).into();
    let dead = rig.open_order(&Order::http("dead", kernel)).await?;
    let request = dead.browser.request(Method::GET, &dead.at("/"))?;
    dead.browser
        .send(request.header(HEADER, "a-failure"))
        .await?
        .expect(502)?;
    let failure = explained(&rig, "a-failure").await?;
    assert_eq!(failure["tried_before"][0]["fault"], "connect");
    ensure!(failure["error"].is_string(), "{failure}");

    let url = format!("{}/api/explain/a-page", rig.worker.url());
    let stranger = rig.opener.client().get(url).send().await?;
    assert_eq!(stranger.status(), 401);
    Ok(())
}
