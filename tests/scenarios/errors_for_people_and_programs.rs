//! When something cannot be done, people get a page and programs a problem document, with the
//! contract's codes (contract/rest-coordinator.md §4, contract/data-plane.md §2 and §7).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_common::request_id::HEADER;
use patchbay_tests::browser::{Answer, Browser};
use patchbay_tests::eventually::eventually;
use patchbay_tests::opener::Order;
use patchbay_tests::raw::{Connection, OneShotApp};
use patchbay_tests::rig::{Parts, Rig};
use patchbay_tests::secrets;
use reqwest::Method;

/// What a person's browser asks for first. The coordinator takes the `*/*` that browsers add for
/// a wish for JSON, as the incumbent does; people do not meet it.
const PAGES: &str = "text/html,application/xhtml+xml";

async fn accept(browser: &Browser, url: &str, accept: &str) -> Result<Answer> {
    let request = browser
        .request(Method::GET, url)?
        .header(HEADER, "shown-to-the-caller");
    browser.send(request.header("accept", accept)).await
}

/// Both forms of one error.
async fn is_told(browser: &Browser, url: &str, status: u16, kind: &str, code: &str) -> Result<()> {
    let answer = accept(browser, url, "application/json")
        .await?
        .expect(status)?;
    ensure!(
        answer.header("content-type").contains("json"),
        "{:?}",
        answer.headers
    );
    let body = answer.json()?;
    assert_eq!(body["type"], format!("https://api.backend.ai/probs/{kind}"));
    assert_eq!(body["error_code"], code);
    ensure!(body["title"].is_string(), "{body}");
    assert_eq!(answer.header(HEADER), "shown-to-the-caller");

    let page = accept(browser, url, PAGES).await?.expect(status)?;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let title = body["title"].as_str().unwrap_or_default();
    ensure!(
        page.text().contains(title),
        "the page lacks its title: {}",
        page.text()
    );
    ensure!(
        page.text().contains("shown-to-the-caller"),
        "the page lacks the id"
    );
    Ok(())
}

#[tokio::test]
async fn of_a_port_without_an_app() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let port = rig.worker.slots.first();
    let url = format!("http://127.0.0.1:{port}/");
    let browser = Browser::new()?;
    is_told(
        &browser,
        &url,
        400,
        "generic-bad-request",
        "agent_request_bad-request",
    )
    .await?;
    let body = browser.get(&url).await?.json()?;
    assert_eq!(body["msg"], format!("Unregistered slot {port}"));
    Ok(())
}

#[tokio::test]
async fn of_a_subdomain_without_an_app() -> Result<()> {
    let rig = Rig::start(Parts::embedded().wildcard()).await?;
    let port = rig.worker.slots.first();
    let url = format!("http://nobody{}:{port}/", patchbay_tests::worker::DOMAIN);
    let browser = Browser::new()?;
    is_told(
        &browser,
        &url,
        400,
        "generic-bad-request",
        "agent_request_bad-request",
    )
    .await?;
    let body = accept(&browser, &url, "application/json").await?.json()?;
    assert_eq!(body["msg"], "E20009: Subdomain nobody not registered");
    Ok(())
}

#[tokio::test]
async fn of_a_missing_permit() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let stranger = Browser::new()?;
    let (kind, code) = ("invalid-credentials", "agent_auth_unauthorized");
    is_told(&stranger, &door.at("/"), 401, kind, code).await?;
    let body = accept(&stranger, &door.at("/"), "application/json")
        .await?
        .json()?;
    assert_eq!(body["msg"], "E20004: Authorization cookie not provided");
    Ok(())
}

#[tokio::test]
async fn of_an_app_that_refuses_and_then_counts_as_gone() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let app = OneShotApp::start(|mut app: Connection| async move {
        app.read_head().await?;
        app.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            .await
    })
    .await?;
    let door = rig.open_order(&Order::http("jupyter", app.address)).await?;
    // It has been there: one that never was is still starting.
    door.get("/").await?.expect(204)?;
    app.outcome().await?;
    let (kind, code) = (
        "appproxy/container-connection-refused",
        "kernel_access_unreachable",
    );
    is_told(&door.browser, &door.at("/"), 502, kind, code).await?;

    // After enough failures its only route is out of service.
    for _ in 0..10 {
        let answer = accept(&door.browser, &door.at("/"), "application/json").await?;
        if answer.status == 503 {
            let (kind, code) = ("appproxy/worker-not-available", "agent_access_not-found");
            return is_told(&door.browser, &door.at("/"), 503, kind, code).await;
        }
        ensure!(answer.status == 502, "{}", answer.status);
    }
    anyhow::bail!("a dead route is tried for ever")
}

#[tokio::test]
async fn of_an_app_that_breaks_off() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let app = OneShotApp::start(|mut app: Connection| async move {
        app.read_head().await?;
        app.reset()
    })
    .await?;
    let door = rig.open_order(&Order::http("by-hand", app.address)).await?;
    let request = door.browser.request(Method::POST, &door.at("/"))?.body("x");
    let answer = door.browser.send(request).await?.expect(502)?;
    ensure!(answer.json()?["error_code"].is_string());
    app.outcome().await
}

#[tokio::test]
async fn of_clients_that_leave_the_app_is_not_blamed() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    for _ in 0..8 {
        let request = door
            .browser
            .request(Method::GET, &door.at("/download/50000000"))?;
        let mut response = request.send().await?;
        response.chunk().await?.context("no piece")?;
        drop(response);
    }
    door.get("/hello").await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn of_the_workers_own_pages() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let (browser, worker) = (Browser::new()?, rig.worker.url());
    let door = rig.open("jupyter").await?;
    rig.opener.close(door.circuit).await?;
    let gone = eventually("the link is dead", Duration::from_secs(2), async || {
        let answer = accept(&browser, &door.opened.setup, "application/json").await?;
        answer.expect(404)
    })
    .await?;
    assert_eq!(gone.json()?["title"], "E00002: No such worker:circuit.");
    let missing = accept(&browser, &format!("{worker}/setup"), "application/json").await?;
    assert_eq!(
        missing.expect(400)?.json()?["type"],
        "https://api.backend.ai/probs/invalid-api-params"
    );
    let nowhere = browser
        .get(&format!("{worker}/nowhere"))
        .await?
        .expect(404)?;
    assert_eq!(
        nowhere.json()?["type"],
        "https://api.backend.ai/probs/url-not-found"
    );

    assert_eq!(
        browser.get(&format!("{worker}/status")).await?.json()?["api_version"],
        "v2"
    );
    for path in [
        "/",
        "/livez",
        "/readyz",
        "/health",
        "/health/livez",
        "/health/readyz",
    ] {
        let health = browser
            .get(&format!("{worker}{path}"))
            .await?
            .expect(200)?
            .json()?;
        assert_eq!(health["component"], "appproxy-worker", "{path}: {health}");
    }
    let status = browser
        .get(&format!("{worker}/health/status"))
        .await?
        .expect(200)?
        .json()?;
    assert_eq!(status["authority"], "worker-1");
    assert_eq!(status["app_mode"], "port");
    let metrics = browser
        .get(&format!("{worker}/metrics"))
        .await?
        .expect(200)?;
    ensure!(metrics.text().contains("# TYPE"), "{}", metrics.text());
    Ok(())
}

#[tokio::test]
async fn of_the_coordinator() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let browser = Browser::new()?;
    let (kind, code) = ("auth-failed", "agent_auth_unauthorized");
    is_told(&browser, &rig.opener.at("/api/worker"), 401, kind, code).await?;
    let (kind, code) = ("url-not-found", "agent_request_not-found");
    is_told(&browser, &rig.opener.at("/nowhere"), 404, kind, code).await
}

#[tokio::test]
async fn of_calls_the_coordinator_cannot_do() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let nobody = uuid::Uuid::new_v4();
    let cases = format!(
        "GET /api/circuit/{nobody} 404 object-not-found
         DELETE /api/circuit/{nobody} 404 object-not-found
         GET /api/worker/{nobody} 404 object-not-found
         GET /api/worker/{nobody}/circuits 404 object-not-found
         POST /status 405 method-not-allowed
         PUT /v2/conf 405 method-not-allowed
         POST /v2/conf 400 invalid-api-params {{
         POST /v2/conf 400 invalid-api-params {{}}
         PUT /api/worker 400 invalid-api-params {{\"authority\":1}}"
    );
    for case in cases.lines().map(str::trim) {
        let parts: Vec<&str> = case.split(' ').collect();
        let method = Method::from_bytes(parts[0].as_bytes())?;
        let request = rig.opener.client().request(method, rig.opener.at(parts[1]));
        let body = parts.get(4).copied().unwrap_or_default().to_owned();
        let response = rig.opener.authorized(request).body(body).send().await?;
        let status = response.status();
        let body: serde_json::Value = response.json().await?;
        assert_eq!(status.as_str(), parts[2], "{case}: {body}");
        let kind = format!("https://api.backend.ai/probs/{}", parts[3]);
        assert_eq!(body["type"], kind, "{case}: {body}");
        if parts[1].ends_with(&format!("/circuit/{nobody}")) {
            assert_eq!(body["title"], "E00002: No such circuit.");
        }
    }
    Ok(())
}

#[tokio::test]
async fn of_a_wrong_secret() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let secret = secrets::API;
    for (token, status) in [
        (secret.to_owned(), 200),
        (format!("Bearer {secret}"), 200),
        (format!("BackendAI {secret}"), 200),
        (format!("Basic {secret}"), 401),
        (format!("bearer {secret}"), 401),
        (format!("{secret}x"), 401),
        (String::new(), 401),
    ] {
        let request = rig.opener.client().get(rig.opener.at("/api/worker"));
        let answer = request.header("x-backendai-token", &token).send().await?;
        assert_eq!(answer.status(), status, "`{token}`");
    }
    Ok(())
}

#[tokio::test]
async fn of_an_opening_without_a_worker() -> Result<()> {
    let mut rig = Rig::start(Parts::embedded()).await?;
    let order = rig.order("vnc");
    let wrong = patchbay_tests::opener::Order {
        protocol: "grpc".into(),
        ..order
    };
    let token = rig.opener.conf(&wrong).await?;
    let response = rig.opener.auth_request(&wrong, &token)?.send().await?;
    assert_eq!(response.status(), 503, "no worker speaks gRPC");
    let body: serde_json::Value = response.json().await?;
    assert_eq!(
        body["type"],
        "https://api.backend.ai/probs/appproxy/worker-not-available"
    );

    let mut other = rig.order("jupyter");
    other.session = patchbay_common::id::SessionId::random();
    let refused = rig.opener.auth_request(&other, &token)?.send().await?;
    assert_eq!(refused.status(), 401, "a token opens its own session only");
    let unknown = uuid::Uuid::new_v4().to_string();
    let refused = rig.opener.auth_request(&other, &unknown)?.send().await?;
    assert_eq!(refused.status(), 404);
    rig.worker.program.ensure_running()
}

#[tokio::test]
async fn of_requests_that_are_not_http() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let (host, cookie) = (
        format!("Host: {}", door.host()),
        format!("Cookie: {}", door.cookie()),
    );
    let both = [&*host, &cookie];
    for (line, more) in [
        (
            "POST /smuggled HTTP/1.1",
            vec!["Content-Length: 4", "Transfer-Encoding: chunked"],
        ),
        (
            "POST /smuggled HTTP/1.1",
            vec!["Content-Length: 4", "Content-Length: 4"],
        ),
        (
            "POST /smuggled HTTP/1.1",
            vec!["Content-Length: 4", "Content-Length: 5"],
        ),
        ("POST /smuggled HTTP/1.1", vec!["Content-Length: +0"]),
        ("POST /smuggled HTTP/1.1", vec!["Transfer-Encoding: gzip"]),
        ("GET /smuggled HTTP/1.1", vec!["Host: another.example"]),
        ("GET /smuggled HTTP/1.1", vec!["Bad Name: x"]),
    ] {
        let mut connection = Connection::open(door.address()?).await?;
        let lines: Vec<&str> = [line].into_iter().chain(both).chain(more.clone()).collect();
        connection.write_head(&lines).await?;
        let head = connection
            .read_head()
            .await
            .with_context(|| format!("{more:?}"))?;
        assert_eq!(head.status(), "400", "{more:?}: {head:?}");
        connection.closed().await?;
    }
    let mut hostless = Connection::open(door.address()?).await?;
    hostless
        .write_head(&["GET /smuggled HTTP/1.1", &cookie])
        .await?;
    assert_eq!(hostless.read_head().await?.status(), "400");
    ensure!(
        rig.app.seen("/smuggled").is_empty(),
        "the app got one of them"
    );
    Ok(())
}
