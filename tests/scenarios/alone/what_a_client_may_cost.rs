//! Bounds on what one client, one connection and one request may cost, and how clients are told.

use std::time::Duration;

use anyhow::{Result, ensure};
use patchbay_tests::eventually::eventually;
use patchbay_tests::raw::Connection;
use patchbay_tests::rig::{Door, Parts, Rig};
use reqwest::Method;

const LIMITS: &str = "[limits]\nheader_fields = 20\nheader_bytes = \"4KiB\"\nbody = \"1KiB\"\n\
                      body_by_app = { roomy = \"1MiB\" }\nrequests_per_connection = 3\n";

/// The heads that ask for a page and for a WebSocket, with these lines added.
fn heads(door: &Door, more: &[String]) -> Vec<Vec<String>> {
    let common = [
        format!("Host: {}", door.host()),
        format!("Cookie: {}", door.cookie()),
    ];
    let upgrade = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let page = ["GET /hello HTTP/1.1".to_owned()];
    let socket = ["GET /ws/echo HTTP/1.1".to_owned()];
    let plain = page.iter().chain(&common).chain(more).cloned();
    let upgraded = socket.iter().chain(&common).chain(more).cloned();
    vec![
        plain.collect(),
        upgraded.chain(upgrade.map(str::to_owned)).collect(),
    ]
}

async fn answer(door: &Door, head: &[String]) -> Result<(String, Connection)> {
    let mut client = Connection::open(door.address()?).await?;
    let lines: Vec<&str> = head.iter().map(String::as_str).collect();
    client.write_head(&lines).await?;
    let status = client.read_head().await?.status().to_owned();
    Ok((status, client))
}

#[tokio::test]
async fn a_head_of_too_many_or_too_long_fields() -> Result<()> {
    let rig = Rig::start(Parts::embedded().worker(LIMITS)).await?;
    let door = rig.open("jupyter").await?;
    let many: Vec<String> = (0..20)
        .map(|number| format!("X-Field-{number}: 1"))
        .collect();
    let long = vec![format!("X-Long: {}", "x".repeat(4_096))];
    for more in [many, long] {
        for head in heads(&door, &more) {
            let (status, mut client) = answer(&door, &head).await?;
            assert_eq!(status, "431", "{}", head[0]);
            client.closed().await?;
        }
    }
    for (head, expected) in heads(&door, &[]).iter().zip(["200", "101"]) {
        assert_eq!(answer(&door, head).await?.0, expected);
    }
    ensure!(rig.app.seen("/hello").len() == 1, "the app has seen more");
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_too_long() -> Result<()> {
    let rig = Rig::start(Parts::embedded().worker(LIMITS)).await?;
    let door = rig.open("jupyter").await?;
    let roomy = rig.open("roomy").await?;
    let send = async |door: &Door, bytes: usize, chunked: bool| {
        let request = door.browser.request(Method::POST, &door.at("/upload"))?;
        let body = vec![b'x'; bytes];
        let request = if chunked {
            let pieces = [Ok::<_, std::io::Error>(body)];
            request.body(reqwest::Body::wrap_stream(futures_util::stream::iter(
                pieces,
            )))
        } else {
            request.body(body)
        };
        let answer = door.browser.send(request).await?;
        anyhow::Ok(answer.status.as_u16())
    };
    for chunked in [false, true] {
        assert_eq!(send(&door, 1_024, chunked).await?, 200);
        assert_eq!(send(&door, 1_025, chunked).await?, 413);
        assert_eq!(send(&roomy, 100_000, chunked).await?, 200);
    }
    // The app is not to blame for any of it.
    door.get("/hello").await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_connection_of_many_requests() -> Result<()> {
    let rig = Rig::start(Parts::embedded().worker(LIMITS)).await?;
    let door = rig.open("jupyter").await?;
    let head = &heads(&door, &[])[0];
    let lines: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut client = Connection::open(door.address()?).await?;
    for request in 1..=3 {
        client.write_head(&lines).await?;
        let head = client.read_head().await?;
        assert_eq!(head.status(), "200");
        let length = head.header("content-length").unwrap_or_default().parse()?;
        client.read_exactly(length).await?;
        let closes = head.header("connection") == Some("close");
        assert_eq!(closes, request == 3, "request {request}: {head:?}");
    }
    client.closed().await
}

#[tokio::test]
async fn an_address_of_many_connections() -> Result<()> {
    let parts = Parts::embedded().worker("[limits]\nconnections_per_address = 20\n");
    let rig = Rig::start(parts).await?;
    let door = rig.open("jupyter").await?;
    let [page, socket] = &heads(&door, &[])[..] else {
        anyhow::bail!("two heads");
    };
    let mut held = Vec::new();
    let mut last = String::new();
    for _ in 0..21 {
        let (status, client) = answer(&door, socket).await?;
        last.clone_from(&status);
        if status != "101" {
            break;
        }
        held.push(client);
    }
    assert_eq!(last, "429", "after {} WebSockets", held.len());
    assert_eq!(answer(&door, page).await?.0, "429");
    drop(held);
    eventually("there is room again", Duration::from_secs(5), async || {
        for (head, expected) in [(page, "200"), (socket, "101")] {
            let (status, _) = answer(&door, head).await?;
            ensure!(status == expected, "{status}");
        }
        Ok(())
    })
    .await
}
