//! Routes that ask for a credential let the right ones pass and nobody else, for a plain request
//! and for a WebSocket alike.

use std::time::Duration;

use anyhow::{Result, ensure};
use chrono::Utc;
use patchbay_tests::app::App;
use patchbay_tests::eventually::eventually;
use patchbay_tests::gateway::{Gateway, service};
use patchbay_tests::issuer::{Key, Publisher, claims, digest, hs256, unsigned};
use serde_json::{Value, json};

const SECRET: &str = "a secret of more than thirty-two letters";

struct Gate {
    gateway: Gateway,
    app: App,
}

impl Gate {
    /// All paths lead to one app, past a middleware called `gate`.
    async fn new(middleware: &str) -> Result<Self> {
        let app = App::start().await?;
        let service = service("app", &[&app]);
        let route = "[gateway.routes.app]\nservice = \"app\"\nmiddleware = [\"gate\"]\n";
        let gateway = Gateway::start(&format!("{service}{route}{middleware}")).await?;
        Ok(Self { gateway, app })
    }

    async fn bearer(&self, token: &str) -> Result<u16> {
        let value = format!("Bearer {token}");
        let headers = [("authorization", value.as_str())];
        self.gateway.decides_streams(&headers).await
    }

    fn was_reached(&self) -> bool {
        !self.app.seen("/hello").is_empty() || !self.app.seen("/ws/first").is_empty()
    }
}

fn changed(claim: &str, value: impl Into<Value>) -> Value {
    claims(&json!({ claim: value.into() }))
}

#[tokio::test]
async fn forged_tokens_are_refused() -> Result<()> {
    let (key, other) = (Key::new("one")?, Key::new("one")?);
    let folder = tempfile::tempdir()?;
    let pem = folder.path().join("key.pem");
    std::fs::write(&pem, key.public_pem()?)?;
    let gate = Gate::new(&format!(
        "[gateway.middleware.gate.jwt]\nalgorithms = [\"RS256\"]\npublic_key = {:?}\n\
         issuer = \"https://issuer.example\"\naudience = [\"shop\", \"till\"]\n",
        pem.display().to_string()
    ))
    .await?;
    let now = Utc::now().timestamp();
    let good = key.sign(&claims(&json!({})));
    let body = good.rsplit_once('.').map_or("", |(body, _)| body);
    let header = |alg: &str| json!({"alg": alg, "typ": "JWT"});
    let public = key.public_pem()?;
    let confused = hs256(public.as_bytes(), &header("HS256"), &claims(&json!({})))?;
    let forgeries = [
        ("unsigned", format!("{body}.")),
        (
            "none",
            format!("{}.", unsigned(&header("none"), &claims(&json!({})))),
        ),
        (
            "None",
            format!("{}.", unsigned(&header("None"), &claims(&json!({})))),
        ),
        ("HS256 with the public key", confused),
        ("another's signature", other.sign(&claims(&json!({})))),
        (
            "RS512 in the header",
            key.sign_as(&header("RS512"), &claims(&json!({}))),
        ),
        ("expired by a second", key.sign(&changed("exp", now - 1))),
        ("not yet valid", key.sign(&changed("nbf", now + 60))),
        ("never expires", key.sign(&changed("exp", Value::Null))),
        (
            "another issuer",
            key.sign(&changed("iss", "https://evil.example")),
        ),
        ("no issuer", key.sign(&changed("iss", Value::Null))),
        ("another audience", key.sign(&changed("aud", "bank"))),
        ("no audience", key.sign(&changed("aud", Value::Null))),
        ("huge", key.sign(&changed("x", "y".repeat(9_000)))),
        ("expires in text", key.sign(&changed("exp", "tomorrow"))),
        ("no token", String::new()),
        ("garbage", "a.b.c".into()),
        ("two dots", "..".into()),
    ];
    for (what, token) in forgeries {
        assert_eq!(gate.bearer(&token).await?, 401, "{what}");
    }
    ensure!(!gate.was_reached(), "the app heard of it");
    assert_eq!(gate.bearer(&good).await?, 200);
    let list = key.sign(&changed("aud", json!(["x", "till"])));
    assert_eq!(gate.bearer(&list).await?, 200);
    Ok(())
}

#[tokio::test]
async fn and_told_what_is_wrong() -> Result<()> {
    let secret = format!("algorithms = [\"HS256\"]\nsecret = {SECRET:?}\n");
    let gate = Gate::new(&format!("[gateway.middleware.gate.jwt]\n{secret}")).await?;
    let sign = |claims: &Value| hs256(SECRET.as_bytes(), &json!({"alg": "HS256"}), claims);
    let good = sign(&claims(&json!({})))?;
    let twice = [
        ("authorization", "Bearer x"),
        ("authorization", &format!("Bearer {good}")),
    ];
    assert_eq!(gate.gateway.decides(&twice).await?, 401, "two tokens");
    let refused = gate.gateway.get("/hello", &[]).await?.expect(401)?;
    assert_eq!(refused.header("www-authenticate"), "Bearer");
    let expired = format!(
        "Bearer {}",
        sign(&changed("exp", Utc::now().timestamp() - 1))?
    );
    let refused = gate
        .gateway
        .get("/hello", &[("authorization", &expired)])
        .await?;
    let challenge = refused.header("www-authenticate");
    ensure!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    ensure!(!gate.was_reached(), "the app heard of it");
    assert_eq!(gate.bearer(&good).await?, 200);
    Ok(())
}

#[tokio::test]
async fn claims_become_permissions_and_headers() -> Result<()> {
    let gate = Gate::new(&format!(
        "[gateway.middleware.gate.jwt]\nalgorithms = [\"HS256\"]\nsecret = {SECRET:?}\n\
         cookie = \"session\"\nrequire_all = [\"read\"]\nrequire_any = [\"write\", \"admin\"]\n\
         claim_headers = {{ X-User = \"sub\", X-Team = \"team\" }}\n"
    ))
    .await?;
    let sign = |more: Value| {
        let header = json!({"alg": "HS256"});
        hs256(SECRET.as_bytes(), &header, &claims(&more))
    };
    assert_eq!(gate.bearer(&sign(json!({"scope": "read"}))?).await?, 403);
    assert_eq!(gate.bearer(&sign(json!({"scope": ["write"]}))?).await?, 403);
    assert_eq!(gate.bearer(&sign(json!({"scope": null}))?).await?, 403);
    ensure!(!gate.was_reached(), "the app heard of it");

    let cookie = format!("a=b; session={}", sign(json!({}))?);
    let injected = [
        ("cookie", cookie.as_str()),
        ("x-user", "root"),
        ("x_user", "root"),
        ("x-team", "wheel"),
        ("X_Team", "wheel"),
    ];
    assert_eq!(gate.gateway.decides(&injected).await?, 200);
    let mut seen = gate.app.seen("/hello");
    seen.extend(gate.app.seen("/ws/first"));
    assert_eq!(seen.len(), 2);
    for request in seen {
        assert_eq!(request.header("x-user"), "ada");
        assert_eq!(request.headers.get_all("x-user").iter().count(), 1);
        for name in ["x_user", "x-team", "x_team", "authorization"] {
            assert_eq!(request.header(name), "", "{name}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn keys_may_rotate_and_their_publisher_may_fall() -> Result<()> {
    let (first, second, never) = (Key::new("1")?, Key::new("2")?, Key::new("3")?);
    let publisher = Publisher::start(&[&first]).await?;
    let gate = Gate::new(&format!(
        "[gateway.middleware.gate.jwt]\nalgorithms = [\"RS256\"]\njwks_url = \"{}\"\n\
         jwks_cooldown = 60\njwks_timeout = 1\n",
        publisher.url()
    ))
    .await?;
    let token = |key: &Key| key.sign(&claims(&json!({})));
    assert_eq!(gate.bearer(&token(&first)).await?, 200);

    // A new key is fetched when it is first seen.
    publisher.publish(&[&second]);
    assert_eq!(gate.bearer(&token(&second)).await?, 200);
    assert_eq!(gate.bearer(&token(&first)).await?, 401, "withdrawn");

    // Within the cool-down nobody is asked again, however many unknown keys are named.
    let asked = publisher.fetches();
    for _ in 0..20 {
        assert_eq!(gate.bearer(&token(&never)).await?, 401);
    }
    assert_eq!(
        publisher.fetches(),
        asked,
        "asked again within the cool-down"
    );

    // The publisher falls: what is known stays good.
    publisher.fail(true);
    assert_eq!(gate.bearer(&token(&second)).await?, 200);
    let confused = second.sign_as(&json!({"alg": "RS256"}), &claims(&json!({})));
    assert_eq!(
        gate.bearer(&confused).await?,
        200,
        "a token that names no key"
    );
    let wrong = never.sign_as(&json!({"alg": "RS256", "kid": "2"}), &claims(&json!({})));
    assert_eq!(gate.bearer(&wrong).await?, 401, "a forged kid");
    Ok(())
}

#[tokio::test]
async fn nobody_waits_for_keys_that_cannot_be_had() -> Result<()> {
    let key = Key::new("1")?;
    let publisher = Publisher::start(&[&key]).await?;
    publisher.fail(true);
    let gate = Gate::new(&format!(
        "[gateway.middleware.gate.jwt]\nalgorithms = [\"RS256\"]\njwks_url = \"{}\"\n\
         jwks_cooldown = 1\njwks_timeout = 1\n",
        publisher.url()
    ))
    .await?;
    let token = key.sign(&claims(&json!({})));
    assert_eq!(gate.bearer(&token).await?, 503);
    publisher.fail(false);
    eventually("keys are had", Duration::from_secs(10), async || {
        let status = gate.bearer(&token).await?;
        ensure!(status == 200, "{status}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn api_keys_are_known_by_their_digest() -> Result<()> {
    let gate = Gate::new(&format!(
        "[gateway.middleware.gate.api_key]\nrequire_all = [\"orders\"]\n\
         subject_header = \"X-Caller\"\n\
         [gateway.middleware.gate.api_key.keys.till]\nsha256 = \"{}\"\npermissions = [\"orders\"]\n\
         [gateway.middleware.gate.api_key.keys.guest]\nsha256 = \"{}\"\n",
        digest("the till's key"),
        digest("the guest's key")
    ))
    .await?;
    assert_eq!(gate.gateway.decides(&[]).await?, 401);
    for (key, status) in [
        ("another key", 401),
        ("", 401),
        (&*digest("the till's key"), 401),
        ("the guest's key", 403),
        ("the till's key", 200),
    ] {
        let headers = [("x-api-key", key), ("x-caller", "boss")];
        assert_eq!(gate.gateway.decides(&headers).await?, status, "{key}");
    }
    let seen = gate.app.seen("/hello");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("x-caller"), "till");
    assert_eq!(seen[0].header("x-api-key"), "");
    Ok(())
}

#[tokio::test]
async fn another_service_may_decide() -> Result<()> {
    let decider = App::start().await?;
    let url = |path: &str| format!("http://{}{path}", decider.address);
    let with = |path: &str| {
        format!(
            "[gateway.middleware.gate.forward_auth]\nurl = \"{}\"\n\
             response_headers = [\"X-Who\"]\ntimeout = 1\n",
            url(path)
        )
    };
    for (answer, status) in [(200, 200), (401, 401), (403, 403), (302, 302), (500, 503)] {
        let gate = Gate::new(&with(&format!("/status/{answer}"))).await?;
        let headers = [("authorization", "Basic abc"), ("x-who", "root")];
        assert_eq!(gate.gateway.decides(&headers).await?, status);
        assert_eq!(gate.was_reached(), status == 200);
        let asked = decider.seen(&format!("/status/{answer}"));
        assert_eq!(asked[0].header("authorization"), "Basic abc");
        assert_eq!(asked[0].header("x-forwarded-uri"), "/hello");
        assert_eq!(asked[0].header("x-forwarded-method"), "GET");
        if let Some(seen) = gate.app.seen("/hello").first() {
            assert_eq!(
                seen.header("x-who"),
                "",
                "only the decider may say who it is"
            );
        }
    }
    // One that never answers costs a request its time-out, and no more.
    let gate = Gate::new(&with("/pieces/1")).await?;
    let began = std::time::Instant::now();
    assert_eq!(gate.gateway.get("/hello", &[]).await?.status, 503);
    ensure!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    ensure!(!gate.was_reached(), "the app heard of it");
    Ok(())
}
