//! One id ties a request's traces together, from the edge to the app and back.

use anyhow::{Context as _, Result, ensure};
use patchbay_common::event::Change;
use patchbay_common::request_id::{HEADER, LEGACY_HEADER};
use patchbay_tests::browser::{Answer, Browser};
use patchbay_tests::eventually::eventually;
use patchbay_tests::rig::{Parts, Rig};
use patchbay_tests::socket;
use reqwest::Method;
use uuid::Uuid;

async fn ask(browser: &Browser, url: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let mut request = browser.request(Method::GET, url)?;
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    browser.send(request).await
}

fn is_generated(id: &str) -> bool {
    Uuid::parse_str(id).is_ok_and(|uuid| uuid.get_version_num() == 4)
}

#[tokio::test]
async fn a_given_id_reaches_the_app_and_comes_back() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    for (number, header) in [HEADER, LEGACY_HEADER].into_iter().enumerate() {
        let (id, path) = (format!("given.{number}:a_b-C"), format!("/given-{number}"));
        let answer = ask(&door.browser, &door.at(&path), &[(header, &id)])
            .await?
            .expect(200)?;
        assert_eq!(answer.header(HEADER), id);
        assert_eq!(rig.app.seen(&path)[0].header(HEADER), id);
        let line = rig.worker.program.logged(&[&id, &path]).await?;
        ensure!(
            line.contains(&door.circuit.to_string()),
            "no circuit: {line}"
        );
    }
    let both = [(HEADER, "first"), (LEGACY_HEADER, "second")];
    let answer = ask(&door.browser, &door.at("/both"), &both).await?;
    assert_eq!(answer.header(HEADER), "first");
    let exposed = answer
        .header("access-control-expose-headers")
        .to_ascii_lowercase();
    ensure!(
        exposed == "*" || exposed.contains(HEADER),
        "not exposed: {exposed}"
    );
    Ok(())
}

#[tokio::test]
async fn without_a_good_id_one_is_made() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let long = "x".repeat(129);
    for (number, bad) in [
        None,
        Some(""),
        Some("two words"),
        Some("a/b"),
        Some("é"),
        Some(&*long),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/made-{number}");
        let headers: Vec<(&str, &str)> = bad.into_iter().map(|bad| (HEADER, bad)).collect();
        let answer = ask(&door.browser, &door.at(&path), &headers)
            .await?
            .expect(200)?;
        let id = answer.header(HEADER);
        ensure!(is_generated(id), "{bad:?} is answered with `{id}`");
        assert_eq!(rig.app.seen(&path)[0].header(HEADER), id);
    }
    let longest = "x".repeat(128);
    let answer = ask(&door.browser, &door.at("/longest"), &[(HEADER, &longest)]).await?;
    assert_eq!(answer.header(HEADER), longest);
    Ok(())
}

#[tokio::test]
async fn errors_carry_it_too() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let taken = door.address()?.port();
    let mut slots = rig.worker.slots.all();
    let empty = slots.find(|port| *port != taken).context("no empty port")?;
    let stranger = Browser::new()?;
    let worker = [
        (door.at("/x"), 401),
        (format!("http://127.0.0.1:{empty}/"), 400),
    ];
    for (url, status) in worker {
        let answer = ask(&stranger, &url, &[(HEADER, "on-an-error")])
            .await?
            .expect(status)?;
        assert_eq!(answer.header(HEADER), "on-an-error", "{url}");
    }
    let both_names = [
        (format!("{}/setup", rig.worker.url()), 400),
        (format!("{}/nowhere", rig.worker.url()), 404),
        (format!("{}/status", rig.worker.url()), 200),
        (rig.opener.at("/api/worker"), 401),
        (rig.opener.at("/nowhere"), 404),
        (rig.opener.at("/status"), 200),
    ];
    for (url, status) in both_names {
        let answer = ask(&stranger, &url, &[(HEADER, "on-an-error")])
            .await?
            .expect(status)?;
        assert_eq!(answer.header(HEADER), "on-an-error", "{url}");
        assert_eq!(answer.header(LEGACY_HEADER), "on-an-error", "{url}");
        let answer = ask(&stranger, &url, &[]).await?;
        ensure!(is_generated(answer.header(HEADER)), "{url}");
    }
    Ok(())
}

#[tokio::test]
async fn the_opening_call_marks_the_circuit_the_event_and_both_logs() -> Result<()> {
    let rig = Rig::start(Parts::servers()).await?;
    let redis = rig.redis.as_ref().context("no Redis")?;
    let mut events = redis.listen().await?;
    let mut order = rig.order("jupyter");
    order.request_id = Some("origin-of-it-all".into());
    let opened = rig.opener.open(&order).await?;

    let circuit = rig.opener.circuit(opened.circuit).await?;
    assert_eq!(circuit["origin_request_id"], "origin-of-it-all");
    let (created, raw) = events
        .next(|m| matches!(m.event.change, Change::Created(_)))
        .await?;
    assert_eq!(
        created.request_id.as_deref(),
        Some("origin-of-it-all"),
        "{raw}"
    );
    let Change::Created(circuits) = &created.event.change else {
        anyhow::bail!("{raw}");
    };
    assert_eq!(
        circuits[0].origin_request_id.as_deref(),
        Some("origin-of-it-all")
    );
    // Both generations of readers are served (contract/events.md §2).
    let raw: serde_json::Value = serde_json::from_str(&raw)?;
    assert!(
        raw["args"].is_string() && raw["payload"].is_string(),
        "{raw}"
    );

    rig.coordinator
        .program
        .logged(&["origin-of-it-all", "/v2/proxy/auth"])
        .await?;
    rig.worker.program.logged(&["origin-of-it-all"]).await?;

    rig.opener.open(&order).await?;
    let circuit = rig.opener.circuit(opened.circuit).await?;
    assert_eq!(
        circuit["origin_request_id"], "origin-of-it-all",
        "reuse changed it"
    );
    Ok(())
}

#[tokio::test]
async fn a_websocket_keeps_its_handshakes_id() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let (mut socket, response) =
        socket::open(&door, "/ws/first", &[(HEADER, "of-a-socket")]).await?;
    assert_eq!(response.headers()[HEADER], "of-a-socket");
    assert_eq!(rig.app.seen("/ws/first")[0].header(HEADER), "of-a-socket");
    socket::next(&mut socket).await?;
    drop(socket);
    rig.worker
        .program
        .logged(&["of-a-socket", "/ws/first"])
        .await?;
    Ok(())
}

#[tokio::test]
async fn setup_and_the_coordinator_share_it() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let opened = rig.opener.open(&rig.order("jupyter")).await?;
    let browser = Browser::new()?;
    let answer = ask(&browser, &opened.setup, &[(HEADER, "of-a-setup")])
        .await?
        .expect(302)?;
    assert_eq!(answer.header(HEADER), "of-a-setup");
    assert_eq!(answer.header(LEGACY_HEADER), "of-a-setup");
    rig.worker.program.logged(&["of-a-setup"]).await?;
    Ok(())
}

#[tokio::test]
async fn every_request_has_one_line_in_the_access_log() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    for number in 0..20 {
        let id = format!("counted-{number}-end");
        ask(&door.browser, &door.at("/counted"), &[(HEADER, &id)])
            .await?
            .expect(200)?;
    }
    eventually(
        "all lines are written",
        std::time::Duration::from_secs(5),
        async || {
            let log = rig.worker.program.log();
            for number in 0..20 {
                let id = format!("counted-{number}-end");
                let lines = log
                    .lines()
                    .filter(|l| l.contains(&id) && l.contains("/counted"));
                let count = lines.count();
                ensure!(count == 1, "{id}: {count} lines");
            }
            Ok(())
        },
    )
    .await
}
