//! Gateways and agents come and go, connections freeze: what is under way is answered, and what
//! comes after finds its way.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::browser::client;
use patchbay_tests::eventually::eventually;
use patchbay_tests::gateway::Gateway;
use patchbay_tests::lending::{Agent, TOKEN, connected, lend, register, section};
use patchbay_tests::program::Signal;
use serde_json::json;

async fn answers(gateway: &Gateway) -> Result<Duration> {
    let start = Instant::now();
    eventually("the tunnel answers", Duration::from_secs(30), async || {
        let answer = gateway.get("/t/web/hello", &[]).await?;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    })
    .await?;
    Ok(start.elapsed())
}

#[tokio::test]
async fn a_gateway_that_comes_back_is_found() -> Result<()> {
    let (mut gateway, app) = (Gateway::start(&section("")).await?, App::start().await?);
    let _agent = Agent::start(&gateway, "laptop", &[&lend("web", &app)]).await?;
    for _ in 0..2 {
        gateway.program.kill().await?;
        let ready = format!("{}/health/readyz", gateway.api());
        gateway.program.start_and_answer(&client()?, &ready).await?;
        let took = answers(&gateway).await?;
        crate::report_figure(format_args!("a restarted gateway: answers after {took:?}"));
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_that_dies_is_missed_at_once_and_welcome_again() -> Result<()> {
    let (gateway, app) = (Gateway::start(&section("")).await?, App::start().await?);
    let mut agent = Agent::start(&gateway, "laptop", &[&lend("web", &app)]).await?;
    let waiting = gateway.get("/t/web/pieces/1", &[]);
    let killing = async {
        eventually(
            "the request is under way",
            Duration::from_secs(10),
            async || {
                ensure!(!app.seen("/pieces/1").is_empty(), "not yet");
                Ok(())
            },
        )
        .await?;
        agent.program.kill().await
    };
    let start = Instant::now();
    let (outcome, killed) = tokio::join!(waiting, killing);
    killed?;
    // The answer had begun or not; it is not left hanging either way.
    ensure!(outcome.map_or(true, |answer| answer.status != 200
        || answer.body.is_empty()));
    ensure!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    let missed = gateway.get("/t/web/hello", &[]).await?;
    assert_eq!(missed.status, 503);
    // Its names are held for it, not for others.
    let other = register(&gateway, "other", TOKEN, json!(["web"])).await?;
    assert_eq!(other.status, 409);
    agent.program.start()?;
    let took = answers(&gateway).await?;
    crate::report_figure(format_args!("a restarted agent: answers after {took:?}"));
    Ok(())
}

#[tokio::test]
async fn a_frozen_agent_is_found_out_and_another_takes_over() -> Result<()> {
    let gateway = Gateway::start(&section("ping_interval = 1")).await?;
    let (one, two) = (App::start().await?, App::start().await?);
    let first = Agent::start(&gateway, "first", &[&lend("pool", &one)]).await?;
    let _second = Agent::start(&gateway, "second", &[&lend("pool", &two)]).await?;
    for _ in 0..10 {
        gateway.get("/t/pool/hello", &[]).await?.expect(200)?;
    }
    let counts = (one.seen("/hello").len(), two.seen("/hello").len());
    assert_eq!(counts, (5, 5), "they share the work");
    // Its sockets are open, and nobody is at home.
    first.program.signal(Signal::Stop).await?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        let begun = Instant::now();
        gateway.get("/t/pool/hello", &[]).await?.expect(200)?;
        ensure!(
            begun.elapsed() < Duration::from_secs(12),
            "{:?}",
            begun.elapsed()
        );
    }
    first.program.signal(Signal::Continue).await?;
    connected(&gateway, "pool", "first", "mux").await?;
    gateway.get("/t/pool/hello", &[]).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_what_is_under_way_and_nothing_else() -> Result<()> {
    let (gateway, app) = (Gateway::start(&section("")).await?, App::start().await?);
    let mut agent = Agent::start(&gateway, "laptop", &[&lend("web", &app)]).await?;
    let waiting = gateway.get("/t/web/pieces/2", &[]);
    let ending = async {
        eventually(
            "the request is under way",
            Duration::from_secs(10),
            async || {
                ensure!(!app.seen("/pieces/2").is_empty(), "not yet");
                Ok(())
            },
        )
        .await?;
        agent.program.signal(Signal::Term).await?;
        eventually("no new ones come", Duration::from_secs(10), async || {
            let answer = gateway.get("/t/web/hello", &[]).await?;
            ensure!(answer.status == 503, "{}", answer.status);
            Ok(())
        })
        .await?;
        let other = register(&gateway, "other", TOKEN, json!(["web"])).await?;
        ensure!(other.status == 409, "the name is not held any more");
        app.release(2);
        agent.program.exited(Duration::from_secs(20)).await
    };
    let (answer, ended) = tokio::join!(waiting, ending);
    assert_eq!(answer?.expect(200)?.text(), "piece 0\npiece 1\n");
    ensure!(ended?.success(), "it did not end well");
    register(&gateway, "other", TOKEN, json!(["web"]))
        .await?
        .expect(200)?;
    Ok(())
}

#[tokio::test]
async fn long_polling_and_the_connection_are_two_ways_to_the_same() -> Result<()> {
    let (gateway, app) = (Gateway::start(&section("")).await?, App::start().await?);
    let lent = lend("web", &app);
    let agent = Agent::start_with(&gateway, "laptop", &[&lent], &["--transport", "poll"]).await?;
    let answer = gateway.get("/t/web/hello", &[]).await?.expect(200)?;
    assert_eq!(answer.text(), "hello from the app");
    drop(agent);
    let _agent = eventually(
        "the same agent comes by mux",
        Duration::from_secs(40),
        async || Agent::start(&gateway, "laptop", &[&lent]).await,
    )
    .await?;
    answers(&gateway).await?;
    Ok(())
}
