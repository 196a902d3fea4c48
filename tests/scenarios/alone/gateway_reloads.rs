//! The gateway takes over its file at SIGHUP and when it changes, as a whole or not at all, and
//! nobody who is being served notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::eventually::eventually;
use patchbay_tests::gateway::{Gateway, service};
use patchbay_tests::socket::{self, Handshake};

use crate::report_figure;

fn route(name: &str, path: &str, service: &str) -> String {
    format!("[gateway.routes.{name}]\npath = \"{path}\"\nservice = \"{service}\"\n")
}

async fn answers(gateway: &Gateway, path: &str, status: u16) -> Result<()> {
    eventually(
        &format!("{path} answers {status}"),
        Duration::from_secs(10),
        async || {
            let answer = gateway.get(path, &[]).await?;
            answer.expect(status).map(drop)
        },
    )
    .await
}

#[tokio::test]
async fn as_a_whole_or_not_at_all() -> Result<()> {
    let app = App::start().await?;
    let base = service("app", &[&app]) + &route("one", "/hello", "app");
    let gateway = Gateway::start(&base).await?;
    gateway.get("/hello", &[]).await?.expect(200)?;
    gateway.get("/two", &[]).await?.expect(404)?;

    let url = format!("ws://{}/ws/echo", gateway.address());
    let sockets = base.clone() + &route("sockets", "/ws/*", "app");
    gateway.reload(&sockets).await?;
    answers(&gateway, "/ws/none", 200).await?;
    let address = gateway.address().parse()?;
    let Handshake::Open(mut open, _) = socket::handshake_at(&url, address, &[]).await? else {
        anyhow::bail!("the WebSocket is refused");
    };

    // A changed file is enough; no signal is needed.
    gateway.write(&(base.clone() + &route("two", "/two", "app")))?;
    answers(&gateway, "/two", 200).await?;
    gateway.get("/ws/none", &[]).await?.expect(404)?;
    // The WebSocket's route is gone; it is not.
    use futures_util::SinkExt as _;
    open.send("still here".into()).await?;
    assert_eq!(socket::next(&mut open).await?.to_text()?, "still here");

    // Two mistakes: both are told, and nothing of the file is taken over.
    let bad = base + &route("three", "/three", "app") + "[gateway.routes.four]\npath = \"four\"\n";
    gateway.reload(&bad).await?;
    gateway
        .program
        .logged(&["not taken over", "gateway.routes.four.path"])
        .await?;
    gateway
        .program
        .logged(&["not taken over", "gateway.routes.four.service"])
        .await?;
    gateway.get("/three", &[]).await?.expect(404)?;
    gateway.get("/two", &[]).await?.expect(200)?;

    // A rate limit that has not changed keeps its buckets.
    let limited = service("app", &[&app])
        + "[gateway.routes.one]\npath = \"/hello\"\nservice = \"app\"\nmiddleware = [\"once\"]\n\
           [gateway.middleware.once.rate_limit]\nrate = 1\nper = \"1h\"\n";
    gateway.reload(&limited).await?;
    answers(&gateway, "/two", 404).await?;
    gateway.get("/hello", &[]).await?.expect(200)?;
    gateway.get("/hello", &[]).await?.expect(429)?;
    gateway
        .reload(&(limited + &route("two", "/two", "app")))
        .await?;
    answers(&gateway, "/two", 200).await?;
    gateway.get("/hello", &[]).await?.expect(429)?;

    let metrics = gateway.metrics().await?;
    let line = "patchbay_gateway_requests_total{route=\"one\",service=\"app\",class=\"2xx\"} 2";
    ensure!(metrics.contains(line), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn and_no_request_fails_while_it_does_so_all_the_time() -> Result<()> {
    const TIME: Duration = Duration::from_secs(15);
    let apps = [
        App::start().await?,
        App::start().await?,
        App::start().await?,
    ];
    let lines = |turn: usize| {
        let (some, all) = (&apps[turn % 3], [&apps[0], &apps[1], &apps[2]]);
        let used: Vec<&App> = if turn.is_multiple_of(2) {
            all.into()
        } else {
            vec![some]
        };
        let mut text = service("app", &used) + &route("hello", "/hello", "app");
        for extra in 0..turn % 7 {
            text += &route(&format!("extra-{extra}"), &format!("/x{extra}/*"), "app");
        }
        text
    };
    let gateway = Arc::new(Gateway::start(&lines(0)).await?);
    let (done, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU32::new(0)),
    );
    let mut clients = tokio::task::JoinSet::new();
    let url = format!("http://{}/hello", gateway.address());
    for _ in 0..8 {
        let (done, count, url) = (Arc::clone(&done), Arc::clone(&count), url.clone());
        let client = patchbay_tests::browser::client()?;
        clients.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let answer = client.get(&url).send().await?;
                ensure!(answer.status() == 200, "{}", answer.status());
                ensure!(answer.text().await? == "hello from the app", "another body");
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    let (began, mut turns) = (Instant::now(), 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    while began.elapsed() < TIME {
        ticks.tick().await;
        turns += 1;
        gateway.reload(&lines(turns)).await?;
    }
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let requests = count.load(Ordering::Relaxed);
    let taken = gateway.program.log().matches("is in force").count();
    report_figure(format_args!(
        "{requests} requests during {turns} changes ({taken} taken over), none failed"
    ));
    ensure!(
        requests > 500 && taken > 50,
        "{requests} requests, {taken} changes"
    );
    Ok(())
}
