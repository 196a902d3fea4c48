//! Routes with limits: how often, from where, for which pages, for plain requests and WebSockets.

use std::time::Duration;

use anyhow::{Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::gateway::{Gateway, service};
use patchbay_tests::paced;
use reqwest::Method;

use crate::report_figure;

async fn gate(app: &App, middleware: &str) -> Result<Gateway> {
    let service = service("app", &[app]);
    let route = "[gateway.routes.app]\nservice = \"app\"\nmiddleware = [\"gate\"]\n";
    Gateway::start(&format!("{service}{route}{middleware}")).await
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() -> Result<()> {
    let app = App::start().await?;
    let gateway = gate(
        &app,
        "[gateway.middleware.gate.rate_limit]\nrate = 1\nper = \"30s\"\nburst = 4\n\
         key = \"header:x-client\"\n",
    )
    .await?;
    // Four tokens: two requests and two WebSockets.
    for _ in 0..2 {
        assert_eq!(gateway.decides(&[("x-client", "a")]).await?, 200);
    }
    assert_eq!(gateway.decides(&[("x-client", "a")]).await?, 429);
    let refused = gateway.get("/hello", &[("x-client", "a")]).await?;
    let wait: u64 = refused.header("retry-after").parse()?;
    ensure!((1..=30).contains(&wait), "retry after {wait} s");
    let state = refused.header("ratelimit");
    assert_eq!(state, format!("\"gate\";r=0;t={wait}"));
    assert_eq!(refused.header("ratelimit-policy"), "\"gate\";q=4;w=120");

    // Another key has a bucket of its own; no key at all is one key.
    let other = gateway
        .get("/hello", &[("x-client", "b")])
        .await?
        .expect(200)?;
    assert_eq!(other.header("ratelimit"), "\"gate\";r=3;t=30");
    for _ in 0..2 {
        assert_eq!(gateway.decides(&[]).await?, 200);
    }
    assert_eq!(gateway.decides(&[]).await?, 429);
    assert_eq!(app.seen("/hello").len() + app.seen("/ws/first").len(), 9);
    Ok(())
}

#[tokio::test]
async fn and_the_rate_is_kept_to_two_in_a_hundred() -> Result<()> {
    const RATE: u32 = 100;
    const BURST: u32 = 20;
    const TIME: Duration = Duration::from_secs(30);
    let app = App::start().await?;
    let gateway = gate(
        &app,
        &format!("[gateway.middleware.gate.rate_limit]\nrate = {RATE}\nburst = {BURST}\n"),
    )
    .await?;
    let url = format!("http://{}/status/204", gateway.address());
    let counted = paced::ask(&[url], 10 * RATE, TIME).await?;
    let off = counted.off(RATE, BURST);
    report_figure(format_args!(
        "{} of {} requests admitted in {:.2?}, {:+.2} % off",
        counted.admitted,
        counted.asked,
        counted.time,
        off * 100.0
    ));
    ensure!(counted.asked > 5 * counted.admitted, "too few: {counted:?}");
    ensure!(off.abs() <= 0.02, "{counted:?}");
    Ok(())
}

#[tokio::test]
async fn addresses_may_be_shut_out() -> Result<()> {
    let app = App::start().await?;
    let gateway = gate(
        &app,
        "[gateway.middleware.gate.addresses]\nallow = \"10.0.0.0/8\"\ndeny = [\"10.6.6.6\"]\n",
    )
    .await?;
    assert_eq!(gateway.decides(&[]).await?, 403);
    // Nobody may say where it comes from unless it is a trusted proxy.
    assert_eq!(
        gateway.decides(&[("x-forwarded-for", "10.1.1.1")]).await?,
        403
    );
    ensure!(app.seen("/hello").is_empty(), "the app heard of it");
    Ok(())
}

#[tokio::test]
async fn pages_of_other_origins_need_leave() -> Result<()> {
    let app = App::start().await?;
    let gateway = gate(
        &app,
        "[gateway.middleware.gate.cors]\norigins = [\"https://app.example\"]\n\
         credentials = true\nmethods = [\"GET\", \"PUT\"]\nexpose = [\"X-Total\"]\n",
    )
    .await?;
    let good = ("origin", "https://app.example");
    let bad = ("origin", "https://evil.example");
    let asks = ("access-control-request-method", "PUT");
    let preflight = gateway
        .ask(Method::OPTIONS, "/hello", &[good, asks])
        .await?;
    let preflight = preflight.expect(204)?;
    assert_eq!(preflight.header("access-control-allow-origin"), good.1);
    assert_eq!(preflight.header("access-control-allow-methods"), "GET, PUT");
    assert_eq!(preflight.header("access-control-allow-credentials"), "true");
    let refused = gateway.ask(Method::OPTIONS, "/hello", &[bad, asks]).await?;
    assert_eq!(refused.header("access-control-allow-origin"), "");
    ensure!(app.seen("/hello").is_empty(), "preflights went to the app");

    let answer = gateway.get("/hello", &[good]).await?.expect(200)?;
    assert_eq!(answer.header("access-control-allow-origin"), good.1);
    assert_eq!(answer.header("access-control-expose-headers"), "X-Total");
    assert_eq!(answer.header("vary"), "Origin");
    let answer = gateway.get("/hello", &[bad]).await?.expect(200)?;
    assert_eq!(answer.header("access-control-allow-origin"), "");

    assert_eq!(gateway.upgrade("/ws/first", &[good]).await?, 101);
    assert_eq!(gateway.upgrade("/ws/first", &[]).await?, 101);
    assert_eq!(gateway.upgrade("/ws/first", &[bad]).await?, 403);
    Ok(())
}
