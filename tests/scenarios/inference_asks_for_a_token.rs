//! A model's endpoint is opened by a bearer token of its own, not by a cookie
//! (contract/data-plane.md §5).

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use chrono::Utc;
use patchbay_common::id::CircuitId;
use patchbay_common::token::TokenKey;
use patchbay_tests::browser::{Answer, Browser};
use patchbay_tests::coordinator::Store;
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::secrets;
use patchbay_tests::socket::{self, Handshake};
use reqwest::Method;
use serde_json::{Value, json};

/// A circuit in inference mode. The calls that make one are not offered yet, so an interactive
/// one is changed in the database while the worker is away.
async fn endpoint(rig: &mut Rig) -> Result<Door> {
    let door = rig.open("my-llm").await?;
    rig.worker.program.stop(Duration::from_secs(5)).await?;
    let Store::Sqlite(path) = &rig.store else {
        bail!("SQLite is expected");
    };
    let database = rusqlite::Connection::open(path)?;
    let change = "UPDATE circuits SET app_mode = 'INFERENCE' WHERE id = ?1";
    let changed = database.execute(change, [door.circuit.to_string()])?;
    ensure!(changed == 1, "{changed} circuits were changed");
    rig.worker.start_again().await?;
    Ok(door)
}

async fn call(door: &Door, authorization: Option<&str>) -> Result<Answer> {
    let stranger = Browser::new()?;
    let mut request = stranger.request(Method::GET, &door.at("/hello"))?;
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    stranger
        .send(request.header("accept", "application/json"))
        .await
}

fn claims(circuit: CircuitId, lifetime: i64) -> Value {
    // A real token carries the whole circuit; only these two are looked at.
    json!({"id": circuit, "app": "my-llm", "exp": Utc::now().timestamp() + lifetime})
}

#[tokio::test]
async fn and_says_what_is_wrong_with_another() -> Result<()> {
    let mut rig = Rig::start(Parts::embedded()).await?;
    let door = endpoint(&mut rig).await?;
    let key = secrets::token_key();
    let good = key.sign(&claims(door.circuit, 60))?;
    let altered = format!("{}x", good.trim_end_matches(char::is_alphanumeric));
    let foreign = TokenKey::new("another secret").sign(&claims(door.circuit, 60))?;
    let expired = key.sign(&claims(door.circuit, -60))?;
    let others = key.sign(&claims(CircuitId::random(), 60))?;
    let nameless = key.sign(&json!({"exp": Utc::now().timestamp() + 60}))?;
    let invalid = |why: &str| format!("E20008: Invalid authorization token ({why})");
    for (authorization, msg) in [
        (None, "E20006: Authorization header not provided".to_owned()),
        (
            Some(format!("Basic {good}")),
            "E20007: Unsupported authorization method Basic".into(),
        ),
        (
            Some(format!("bearer {good}")),
            "E20007: Unsupported authorization method bearer".into(),
        ),
        (
            Some("Bearer garbage".into()),
            invalid("Not enough segments"),
        ),
        (
            Some(format!("Bearer {foreign}")),
            invalid("Signature verification failed"),
        ),
        (
            Some(format!("Bearer {expired}")),
            invalid("Signature has expired"),
        ),
        (
            Some(format!("Bearer {others}")),
            "E20009: Authorization token mismatch".into(),
        ),
        (
            Some(format!("Bearer {nameless}")),
            "E20009: Authorization token mismatch".into(),
        ),
    ] {
        let answer = call(&door, authorization.as_deref()).await?.expect(401)?;
        let body = answer.json()?;
        assert_eq!(body["msg"], msg, "{authorization:?}");
        assert_eq!(
            body["type"],
            "https://api.backend.ai/probs/invalid-credentials"
        );
    }
    call(&door, Some(&format!("Bearer {altered}")))
        .await?
        .expect(401)?;

    // The cookie of the time when it was interactive is worth nothing.
    door.get("/hello").await?.expect(401)?;
    ensure!(rig.app.seen("/hello").is_empty(), "the app heard of it");

    for scheme in ["Bearer", "BackendAI"] {
        call(&door, Some(&format!("{scheme} {good}")))
            .await?
            .expect(200)?;
    }
    Ok(())
}

#[tokio::test]
async fn for_a_websocket_too_and_has_no_setup_page() -> Result<()> {
    let mut rig = Rig::start(Parts::embedded()).await?;
    let door = endpoint(&mut rig).await?;
    match socket::handshake(&door, "/ws/first", &door.cookie(), &[]).await? {
        Handshake::Refused(status, _) => assert_eq!(status, 401),
        Handshake::Open(..) => bail!("opened without a token"),
    }
    let good = secrets::token_key().sign(&claims(door.circuit, 60))?;
    let authorization = format!("Bearer {good}");
    let headers = [("authorization", authorization.as_str())];
    match socket::handshake(&door, "/ws/first", "", &headers).await? {
        Handshake::Open(mut socket, _) => {
            let first = socket::next(&mut socket).await?;
            assert_eq!(first.to_text()?, "the app speaks first");
        }
        Handshake::Refused(status, body) => bail!("{status}: {body}"),
    }

    let browser = Browser::new()?;
    let request = browser.request(Method::GET, &door.opened.setup)?;
    let answer = browser
        .send(request.header("accept", "application/json"))
        .await?;
    let body = answer.expect(400)?.json()?;
    let msg = body["msg"].as_str().context("no msg")?;
    assert_eq!(msg, "E20011: Not supported for inference apps");
    Ok(())
}
