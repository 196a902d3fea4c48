//! A script that knows nothing but HTTP and JSON lends a service; who is not an agent, or says
//! what agents do not say, is refused.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use patchbay_tests::app::{App, digest, download};
use patchbay_tests::gateway::Gateway;
use patchbay_tests::lending::{TOKEN, call, python_agent, raw_call, register, section, tunnel};
use patchbay_tests::program::Signal;
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn a_plain_script_serves_a_tunnel() -> Result<()> {
    let (gateway, app) = (Gateway::start(&section("")).await?, App::start().await?);
    let mut script = python_agent(&gateway, "web", &app).await?;
    let id = [("x-backend-request-id", "by-poll-1"), ("cookie", "mine=1")];
    let answer = gateway.get("/t/web/hello?x=1", &id).await?.expect(200)?;
    assert_eq!(answer.text(), "hello from the app");
    assert_eq!(answer.header("x-backend-request-id"), "by-poll-1");
    let seen = app.seen("/hello").pop().context("it reached the app")?;
    assert_eq!(seen.uri.to_string(), "/hello?x=1");
    assert_eq!(seen.header("x-backend-request-id"), "by-poll-1");
    assert_eq!(seen.header("x-forwarded-prefix"), "/t/web");
    assert_eq!(seen.header("cookie"), "mine=1");
    // Every byte there is, both ways.
    let body = download(1 << 20);
    let url = format!("http://{}/t/web/upload", gateway.address());
    let upload = reqwest::Client::new().post(url).body(body.clone());
    let told: Value = upload.send().await?.json().await?;
    assert_eq!(told["sha256"], digest(&body).as_str());
    let answer = gateway
        .get("/t/web/download/300000", &[])
        .await?
        .expect(200)?;
    assert_eq!(digest(&answer.body), digest(&download(300_000)));
    let answer = gateway.get("/t/web/cookies", &[]).await?.expect(200)?;
    assert_eq!(answer.headers.get_all("set-cookie").iter().count(), 2);
    let answer = gateway.get("/t/web/status/503", &[]).await?;
    assert_eq!(answer.status, 503);
    assert_eq!(gateway.upgrade("/t/web/ws/first", &[]).await?, 501);
    let bare = gateway.get("/t/web", &[]).await?.expect(308)?;
    assert_eq!(bare.header("location"), "/t/web/");
    let facts = tunnel(&gateway, "web").await?;
    assert_eq!(facts["agent"], "script");
    assert!(facts["requests"].as_u64() >= Some(5), "{facts}");
    assert!(facts["average_latency_ms"].as_f64() > Some(0.0), "{facts}");
    // Gone without a word: its request is answered, and after a while its name is free.
    script.signal(Signal::Kill).await?;
    script.exited(Duration::from_secs(5)).await?;
    let taken = register(&gateway, "other", TOKEN, json!(["web"])).await?;
    assert_eq!(taken.status, 409);
    Ok(())
}

#[tokio::test]
async fn the_dead_are_told_apart_at_once_and_their_names_come_free() -> Result<()> {
    let gateway = Gateway::start(&section(
        "session_ttl = 2\nqueue = 2\nresponse_timeout = 20",
    ))
    .await?;
    let session = register(&gateway, "hand", TOKEN, json!(["web"]))
        .await?
        .expect(200)?;
    let session = session.json()?["session_id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    // Two wait, the third is one too many. Nobody ever pulls: the session ends, and with it what
    // waits, long before the time-out.
    let start = Instant::now();
    let (one, two, three) = tokio::join!(
        gateway.get("/t/web/a", &[]),
        gateway.get("/t/web/b", &[]),
        gateway.get("/t/web/c", &[]),
    );
    let mut answers = [one?, two?, three?];
    answers.sort_by_key(|answer| answer.status);
    let statuses = answers.each_ref().map(|one| one.status.as_u16());
    assert_eq!(statuses, [502, 502, 503]);
    assert!(!answers[2].header("retry-after").is_empty());
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    let beat = json!({"session_id": session});
    let answer = call(&gateway, "/api/agent/heartbeat", &beat).await?;
    assert_eq!(answer.status, 404);
    register(&gateway, "other", TOKEN, json!(["web"]))
        .await?
        .expect(200)?;
    Ok(())
}

#[tokio::test]
async fn who_is_no_agent_is_refused() -> Result<()> {
    let gateway = Gateway::start(&section("max_body = \"64KiB\"")).await?;
    let session = registrations_are_judged(&gateway).await?;
    answers_are_judged(&gateway, &session).await?;
    calls_are_bounded(&gateway).await?;
    let health = gateway.get("/api/health", &[]).await?.expect(200)?.json()?;
    assert_eq!(
        (&health["status"], &health["agents"]),
        (&json!("ok"), &json!(1))
    );
    gateway.program.logged(&["path=/api/health"]).await?;
    let log = gateway.program.log();
    let guessed = log
        .lines()
        .filter(|line| line.contains("/api/agent/pull"))
        .count();
    assert_eq!(guessed, 1, "one line for each refusal");
    assert!(
        !log.contains(TOKEN) && !log.contains(&session),
        "a secret is in the log"
    );
    Ok(())
}

/// Answers with the session of the one agent that is let in.
async fn registrations_are_judged(gateway: &Gateway) -> Result<String> {
    let mut expected: Vec<(u16, &str, Value)> = vec![
        (401, "a", json!({"agent_id": "a", "tunnels": ["web"]})),
        (
            401,
            "a",
            json!({"agent_id": "a", "token": "wrong", "tunnels": ["web"]}),
        ),
        (
            403,
            "a",
            json!({"agent_id": "a", "token": "lab-token", "tunnels": ["web"]}),
        ),
        (
            400,
            "a",
            json!({"agent_id": "a", "token": TOKEN, "tunnels": []}),
        ),
        (
            400,
            "a",
            json!({"agent_id": "a", "token": TOKEN, "tunnels": ["a/b"]}),
        ),
        (
            400,
            "a",
            json!({"agent_id": "a/b", "token": TOKEN, "tunnels": ["web"]}),
        ),
        (400, "a", json!({"token": TOKEN, "tunnels": ["web"]})),
        (400, "a", json!(["not", "an", "object"])),
        (
            200,
            "a",
            json!({"agent_id": "a", "token": TOKEN, "tunnels": ["web"]}),
        ),
        (
            409,
            "b",
            json!({"agent_id": "b", "token": TOKEN, "tunnels": ["web"]}),
        ),
    ];
    let mut session = String::new();
    for (status, _, body) in expected.drain(..) {
        let answer = call(gateway, "/api/agent/register", &body).await?;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        if status == 200 {
            session = answer.json()?["session_id"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
        } else {
            assert!(answer.json()?["msg"].is_string(), "{}", answer.text());
        }
    }
    Ok(session)
}

async fn answers_are_judged(gateway: &Gateway, session: &str) -> Result<()> {
    let guessed = json!({"session_id": "0".repeat(64), "request_id": "x", "status": 200});
    let never = json!({"session_id": session, "request_id": "x", "status": 200});
    let no_base64 = json!({"session_id": session, "request_id": "x", "body_base64": "*"});
    for (status, body) in [(404, guessed), (404, never), (400, no_base64)] {
        let answer = call(gateway, "/api/agent/respond", &body).await?;
        assert_eq!(answer.status, status, "{body}");
    }
    for text in ["", "{", "\u{0}", "null"] {
        let answer = raw_call(gateway, "/api/agent/respond", text).await?;
        assert_eq!(answer.status, 400, "{text:?}");
    }
    Ok(())
}

async fn calls_are_bounded(gateway: &Gateway) -> Result<()> {
    let large = raw_call(gateway, "/api/agent/register", vec![b' '; 1 << 20]).await?;
    assert_eq!(large.status, 413);
    let method = gateway.get("/api/agent/register", &[]).await?;
    assert_eq!(method.status, 405);
    let pull = gateway
        .get("/api/agent/pull?session_id=guessed&wait=1", &[])
        .await?;
    assert_eq!(pull.status, 404);
    assert_eq!(gateway.get("/t/nobody/", &[]).await?.status, 404);
    assert_eq!(gateway.upgrade("/t/nobody/ws/first", &[]).await?, 404);
    assert_eq!(gateway.get("/t/..%2f/", &[]).await?.status, 404);
    let upgrade = [("authorization", "Bearer guessed")];
    let answer = gateway.get("/api/agent/connect", &upgrade).await?;
    assert_eq!(answer.status, 426);
    let body = reqwest::Client::new()
        .request(
            Method::POST,
            format!("http://{}/t/web/upload", gateway.address()),
        )
        .body(vec![b'x'; 100_000])
        .send()
        .await?;
    assert_eq!(body.status(), 413);
    Ok(())
}
