//! A person opens an app whose worker gives out ports.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_common::permit;
use patchbay_tests::browser::Browser;
use patchbay_tests::eventually::eventually;
use patchbay_tests::opener::Order;
use patchbay_tests::rig::{Parts, Rig};
use patchbay_tests::secrets;
use reqwest::{Method, Url};
use serde_json::{Value, json};

async fn a_person_reaches_the_app(parts: Parts) -> Result<()> {
    let rig = Rig::start(parts).await?;
    let order = rig.order("jupyter").with("redirect", "/hello?from=setup");
    let opened = rig.opener.open(&order).await?;
    assert!(!opened.reuse);

    let browser = Browser::new()?;
    let way = browser.visit(&opened.setup).await?;
    let page = way.last().context("no page")?;
    assert_eq!(
        (page.status.as_u16(), page.text().as_str()),
        (200, "hello from the app")
    );
    assert_eq!(page.url.query(), Some("from=setup"));
    let port = page.url.port().context("no port")?;
    assert!(
        rig.worker.slots.all().contains(&port),
        "{port} is not in the range"
    );

    let circuit = rig.opener.circuit(opened.circuit).await?;
    assert_eq!(circuit["port"], port);
    assert_eq!(circuit["app"], "jupyter");
    assert_eq!(circuit["session_ids"], json!([order.session]));
    Ok(())
}

#[tokio::test]
async fn with_sqlite_and_the_stream() -> Result<()> {
    a_person_reaches_the_app(Parts::embedded()).await
}

#[tokio::test]
async fn with_postgres_and_redis() -> Result<()> {
    a_person_reaches_the_app(Parts::servers()).await
}

#[tokio::test]
async fn the_permit_is_a_cookie_of_the_circuits_own() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let cookies = door.browser.cookies();
    assert_eq!(cookies.len(), 1, "{cookies:?}");
    let cookie = &cookies[0];
    assert_eq!(cookie.name, permit::cookie_name(door.circuit));
    assert!(!cookie.for_subdomains, "the cookie names a domain");
    for wanted in ["HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(
            cookie.attributes.iter().any(|a| a == wanted),
            "{cookie:?} lacks {wanted}"
        );
    }
    assert!(
        cookie.attributes.iter().any(|a| a.starts_with("Max-Age=")),
        "{cookie:?}"
    );

    let setup = Browser::new()?.get(&door.opened.setup).await?;
    assert_eq!(setup.header("cache-control"), "no-store");
    Ok(())
}

#[tokio::test]
async fn two_apps_on_one_host_do_not_share_a_permit() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let (one, two) = (rig.open("jupyter").await?, rig.open("rstudio").await?);
    one.get("/hello").await?.expect(200)?;
    two.get("/hello").await?.expect(200)?;
    one.browser.get(&two.at("/hello")).await?.expect(401)?;

    // One browser can hold both: cookies ignore ports, so their names differ.
    patchbay_tests::rig::enter(&one.browser, &two.opened).await?;
    one.browser.get(&one.at("/hello")).await?.expect(200)?;
    one.browser.get(&two.at("/hello")).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn opening_again_gives_the_same_circuit() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let order = rig.order("jupyter");
    let first = rig.opener.open(&order).await?;
    let again = rig.opener.open(&order).await?;
    assert_eq!(again.circuit, first.circuit);
    assert!(again.reuse);

    let fresh = rig
        .opener
        .open(&order.clone().with("no_reuse", "true"))
        .await?;
    assert_ne!(fresh.circuit, first.circuit);
    let other = Order {
        session: patchbay_common::id::SessionId::random(),
        ..order
    };
    assert_ne!(rig.opener.open(&other).await?.circuit, first.circuit);
    Ok(())
}

#[tokio::test]
async fn a_wanted_port_is_given_once() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let wanted = rig.worker.slots.last();
    let door = rig
        .open_order(&rig.order("jupyter").with("port", wanted))
        .await?;
    assert_eq!(door.address()?.port(), wanted);

    let order = rig.order("rstudio").with("port", wanted);
    let token = rig.opener.conf(&order).await?;
    let refused = rig.opener.auth_request(&order, &token)?.send().await?;
    assert_eq!(refused.status(), 409);
    let body: Value = refused.json().await?;
    assert_eq!(
        body["type"],
        "https://api.backend.ai/probs/appproxy/port-not-available"
    );
    Ok(())
}

#[tokio::test]
async fn closing_takes_the_app_away_and_frees_the_port() -> Result<()> {
    let rig = Rig::start(Parts::embedded().ports(1)).await?;
    let door = rig.open("jupyter").await?;
    door.get("/hello").await?.expect(200)?;

    rig.opener.close(door.circuit).await?;
    eventually("the app is gone", Duration::from_secs(2), async || {
        door.get("/hello").await?.expect(400)
    })
    .await?;
    let setup = Browser::new()?.get(&door.opened.setup).await?;
    assert_eq!(setup.status, 404, "{}", setup.text());

    let next = rig.open("rstudio").await?;
    assert_eq!(next.address()?, door.address()?);
    next.get("/hello").await?.expect(200)?;
    door.get("/hello").await?.expect(401)?;
    Ok(())
}

#[tokio::test]
async fn a_browser_is_sent_on_without_json() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let order = rig.order("jupyter").with("redirect", "/hello");
    let token = rig.opener.conf(&order).await?;
    let url = rig
        .opener
        .auth_request(&order, &token)?
        .build()?
        .url()
        .to_string();
    let way = Browser::new()?.visit(&url).await?;
    assert_eq!(way[0].status, 308);
    assert_eq!(way.last().context("no page")?.text(), "hello from the app");
    Ok(())
}

#[tokio::test]
async fn the_deprecated_add_call_leads_to_the_app() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let order = rig.order("jupyter");
    let token = rig.opener.conf(&order).await?;
    let path = format!(
        "/v2/proxy/{token}/{}/add?app=jupyter&protocol=http&redirect=%2Fhello",
        order.session
    );
    let added: Value = rig
        .opener
        .client()
        .get(rig.opener.at(&path))
        .send()
        .await?
        .json()
        .await?;
    assert_eq!(added["code"], 200);
    let url = added["url"].as_str().context("no url")?;
    assert!(url.starts_with(&rig.opener.at("/v2/proxy/auth?")), "{url}");
    let way = Browser::new()?.visit(url).await?;
    assert_eq!(way.last().context("no page")?.text(), "hello from the app");
    Ok(())
}

#[tokio::test]
async fn the_manager_opens_with_one_call() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let order = rig.order("jupyter");
    let mut body = order.conf_body();
    body["app"] = "jupyter".into();
    body["protocol"] = "http".into();
    body["redirect"] = "/hello".into();
    body["session_id"] = json!(order.session);

    let request = || rig.opener.client().post(rig.opener.at("/v2/proxy/auth"));
    let stranger = request()
        .header("accept", "application/json")
        .json(&body)
        .send()
        .await?;
    ensure!(
        stranger.status().is_client_error(),
        "a stranger opens: {}",
        stranger.status()
    );

    let request = rig
        .opener
        .authorized(request())
        .header("accept", "application/json");
    let response = request.json(&body).send().await?;
    let status = response.status();
    let answer: Value = response.json().await?;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["token"].is_string(), "{answer}");
    let setup = answer["redirect_url"].as_str().context("no redirect_url")?;
    let way = Browser::new()?.visit(setup).await?;
    assert_eq!(way.last().context("no page")?.text(), "hello from the app");
    Ok(())
}

#[tokio::test]
async fn the_setup_link_never_leads_to_another_site() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    for redirect in [
        "//evil.example/x",
        "@evil.example/",
        "\\\\evil.example",
        "https://evil.example/",
    ] {
        let order = rig.order("jupyter").with("redirect", redirect);
        let opened = rig.opener.open(&order).await?;
        let setup = Browser::new()?.get(&opened.setup).await?.expect(302)?;
        let target = setup.url.join(setup.header("location"))?;
        assert_eq!(
            target.host_str(),
            Some("127.0.0.1"),
            "{redirect} leads to {target}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_setup_link_cannot_be_forged() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let claims = json!({"circuit": door.circuit, "redirect": "/hello", "version": "v2"});
    let forged = patchbay_common::token::TokenKey::new("another secret").sign(&claims)?;
    let mut expired = claims.clone();
    expired["exp"] = 1_000_000_000.into();
    let expired = secrets::token_key().sign(&expired)?;
    for token in [forged.as_str(), expired.as_str(), "a.b.c", "garbage"] {
        let url =
            Url::parse_with_params(&format!("{}/setup", rig.worker.url()), [("token", token)])?;
        let answer = Browser::new()?.get(url.as_str()).await?;
        assert_eq!(answer.status, 401, "{token}: {}", answer.text());
        assert_eq!(answer.header("set-cookie"), "");
    }
    let browser = Browser::new()?;
    let missing = browser.request(Method::GET, &format!("{}/setup", rig.worker.url()))?;
    browser.send(missing).await?.expect(400)?;
    Ok(())
}
