//! Whoever holds no permit of this very circuit does not reach the app, by request or WebSocket.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use patchbay_common::id::UserId;
use patchbay_common::permit;
use patchbay_tests::browser::Browser;
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::secrets;
use patchbay_tests::socket::{self, Handshake};
use reqwest::Method;
use serde_json::Value;

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// Asks with this `Cookie` header, plainly and for a WebSocket; both must be answered with
/// `status`, and the app must not hear of it.
async fn is_refused(rig: &Rig, door: &Door, cookie: &str, status: u16, code: &str) -> Result<()> {
    let browser = Browser::new()?;
    let mut request = browser.request(Method::GET, &door.at("/secret"))?;
    if !cookie.is_empty() {
        request = request.header("cookie", cookie);
    }
    let answer = browser
        .send(request.header("accept", "application/json"))
        .await?;
    let answer = answer.expect(status)?;
    let body = answer.json()?;
    let kind = body["type"].as_str().unwrap_or_default();
    ensure!(kind.ends_with(code), "`{cookie}` is answered {body}");

    match socket::handshake(door, "/ws/first", cookie, &[]).await? {
        Handshake::Open(..) => anyhow::bail!("`{cookie}` opens a WebSocket"),
        Handshake::Refused(got, _) => ensure!(got == status, "`{cookie}`: WebSocket answers {got}"),
    }
    ensure!(rig.app.seen("/secret").is_empty(), "the app heard of it");
    ensure!(rig.app.seen("/ws/first").is_empty(), "the app heard of it");
    Ok(())
}

async fn no_other_cookie_opens(parts: Parts) -> Result<()> {
    let rig = Rig::start(parts).await?;
    let (door, other) = (rig.open("jupyter").await?, rig.open("rstudio").await?);
    let name = permit::cookie_name(door.circuit);
    let key = secrets::permit_key();
    let (user, hour) = (Some(door.order.user), now()? + 3600);

    let good = key.issue(door.circuit, user, hour);
    let altered = good.replace(&hour.to_string(), &(hour + 1).to_string());
    let expired = key.issue(door.circuit, user, now()? - 1);
    let others = key.issue(other.circuit, Some(other.order.user), hour);
    let of_another_user = key.issue(door.circuit, Some(UserId::random()), hour);
    let legacy = key.legacy(door.order.user);
    let others_cookie = other.cookie();
    for cookie in [
        String::new(),
        "unrelated=1".into(),
        format!("{name}="),
        format!("{name}=wrong"),
        format!("{name}={altered}"),
        format!("{name}={expired}"),
        format!("{name}={others}"),
        format!("{name}={of_another_user}"),
        format!("{name}={legacy}"),
        format!("{}={legacy}", permit::LEGACY_COOKIE),
        format!("{}={good}", permit::LEGACY_COOKIE),
        others_cookie,
    ] {
        is_refused(&rig, &door, &cookie, 401, "invalid-credentials").await?;
    }

    let browser = Browser::new()?;
    let request = browser.request(Method::GET, &door.at("/hello"))?;
    let good = format!("unrelated=1; {name}={good}");
    browser
        .send(request.header("cookie", good))
        .await?
        .expect(200)?;
    Ok(())
}

#[tokio::test]
async fn by_port() -> Result<()> {
    no_other_cookie_opens(Parts::embedded()).await
}

#[tokio::test]
async fn by_subdomain() -> Result<()> {
    no_other_cookie_opens(Parts::embedded().wildcard()).await
}

#[tokio::test]
async fn with_the_switch_the_legacy_permit_is_good() -> Result<()> {
    let rig = Rig::start(Parts::embedded().worker("[permit]\nlegacy = true\n")).await?;
    let door = rig.open("jupyter").await?;
    let legacy = secrets::permit_key().legacy(door.order.user);
    // The incumbent writes the value inside quotes.
    for value in [legacy.clone(), format!("\"{legacy}\"")] {
        let browser = Browser::new()?;
        browser.set_cookie("127.0.0.1", permit::LEGACY_COOKIE, &value);
        browser.get(&door.at("/hello")).await?.expect(200)?;
    }
    let foreign = secrets::permit_key().legacy(UserId::random());
    let cookie = format!("{}={foreign}", permit::LEGACY_COOKIE);
    is_refused(&rig, &door, &cookie, 401, "invalid-credentials").await
}

#[tokio::test]
async fn the_app_never_sees_the_permit() -> Result<()> {
    let rig = Rig::start(Parts::embedded().worker("[permit]\nlegacy = true\n")).await?;
    let (door, other) = (rig.open("jupyter").await?, rig.open("rstudio").await?);
    let browser = &door.browser;
    patchbay_tests::rig::enter(browser, &other.opened).await?;
    browser.set_cookie("127.0.0.1", "session", "of-the-app");

    browser.get(&door.at("/echo")).await?.expect(200)?;
    socket::open(&door, "/ws/head", &[]).await?;
    for path in ["/echo", "/ws/head"] {
        let seen = rig.app.seen(path);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].header("cookie"), "session=of-the-app", "{path}");
    }

    // With nothing else in it, the header goes altogether.
    let fresh = rig.open("tensorboard").await?;
    fresh.get("/bare").await?.expect(200)?;
    assert!(!rig.app.seen("/bare")[0].headers.contains_key("cookie"));
    Ok(())
}

#[tokio::test]
async fn an_app_open_to_the_public_asks_nothing() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig
        .open_order(&rig.order("demo").with("open_to_public", "true"))
        .await?;
    let stranger = Browser::new()?;
    stranger.get(&door.at("/hello")).await?.expect(200)?;
    let shaken = socket::handshake(&door, "/ws/first", "", &[]).await?;
    ensure!(matches!(shaken, Handshake::Open(..)), "{shaken:?}");
    Ok(())
}

#[tokio::test]
async fn options_reaches_the_app_without_a_permit() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let stranger = Browser::new()?;
    let request = stranger.request(Method::OPTIONS, &door.at("/echo"))?;
    stranger.send(request).await?.expect(200)?;
    assert_eq!(rig.app.seen("/echo").len(), 1);
    Ok(())
}

#[tokio::test]
async fn only_the_named_addresses_come_in() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    for (list, status) in [
        ("127.0.0.1", 200),
        ("10.0.0.0/8, 127.0.0.0/8", 200),
        ("10.1.2.3/8", 403),
        ("::1", 403),
    ] {
        for public in ["true", "false"] {
            let order = rig.order("jupyter").with("allowed_client_ips", list);
            let order = order.with("open_to_public", public);
            let door = rig.open_order(&order).await?;
            let answer = door.get("/hello").await?;
            assert_eq!(answer.status, status, "{list}: {}", answer.text());
            if status == 403 {
                let cookie = door.cookie();
                is_refused(&rig, &door, &cookie, 403, "client-ip-not-allowed").await?;
            }
            rig.opener.close(door.circuit).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_list_without_a_valid_address_lets_nobody_in() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let order = rig
        .order("jupyter")
        .with("allowed_client_ips", "not-an-address, 1.2.3");
    let token = rig.opener.conf(&order).await?;
    let response = rig.opener.auth_request(&order, &token)?.send().await?;
    assert_eq!(response.status(), 400);
    let body: Value = response.json().await?;
    ensure!(body.to_string().contains("allowed_client_ips"), "{body}");
    Ok(())
}
