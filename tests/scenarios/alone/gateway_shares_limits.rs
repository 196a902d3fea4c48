//! A limit that several workers share over Redis, and what becomes of it without Redis.

use std::time::Duration;

use anyhow::{Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::eventually::eventually;
use patchbay_tests::gateway::{Gateway, service};
use patchbay_tests::paced;
use patchbay_tests::redis::RedisServer;

use crate::report_figure;

const RATE: u32 = 100;
const BURST: u32 = 20;

fn lines(app: &App, redis: &RedisServer, limit: &str) -> String {
    let service = service("app", &[app]);
    let route = "[gateway.routes.app]\nservice = \"app\"\nmiddleware = [\"ours\"]\n";
    format!(
        "{service}{route}[gateway.middleware.ours.rate_limit]\nshared = true\n{limit}{}",
        redis.section()
    )
}

async fn two(lines: &str) -> Result<[Gateway; 2]> {
    let pair = [Gateway::start(lines).await?, Gateway::start(lines).await?];
    for gateway in &pair {
        let said = gateway.program.logged(&["limits are shared over Redis"]);
        said.await?;
    }
    Ok(pair)
}

#[tokio::test]
async fn two_workers_admit_what_one_may() -> Result<()> {
    const TIME: Duration = Duration::from_secs(30);
    let (app, redis) = (App::start().await?, RedisServer::start().await?);
    let limit = format!("rate = {RATE}\nburst = {BURST}\n");
    let pair = two(&lines(&app, &redis, &limit)).await?;
    let urls = pair
        .each_ref()
        .map(|gateway| format!("http://{}/status/204", gateway.address()));
    let counted = paced::ask(&urls, 10 * RATE, TIME).await?;
    let off = counted.off(RATE, BURST);
    report_figure(format_args!(
        "{} of {} requests to two workers admitted in {:.2?}, {:+.2} % off",
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
async fn a_token_is_spent_once_whoever_asks_where() -> Result<()> {
    let (app, redis) = (App::start().await?, RedisServer::start().await?);
    let limit = "rate = 1\nper = \"60s\"\nburst = 4\nkey = \"header:x-client\"\n";
    let pair = two(&lines(&app, &redis, limit)).await?;
    let client = [("x-client", "a")];
    // Four tokens: a request and a WebSocket at each.
    for gateway in &pair {
        assert_eq!(gateway.decides(&client).await?, 200);
    }
    for gateway in &pair {
        assert_eq!(gateway.decides(&client).await?, 429);
        let refused = gateway.get("/hello", &client).await?;
        let wait: u64 = refused.header("retry-after").parse()?;
        ensure!((50..=60).contains(&wait), "retry after {wait} s");
        assert_eq!(
            refused.header("ratelimit"),
            format!("\"ours\";r=0;t={wait}")
        );
    }
    let other = pair[0].get("/hello", &[("x-client", "b")]).await?;
    assert_eq!(other.expect(200)?.header("ratelimit"), "\"ours\";r=3;t=60");
    let seen = app.seen("/hello").len() + app.seen("/ws/first").len();
    assert_eq!(seen, 5);
    Ok(())
}

#[tokio::test]
async fn without_redis_each_worker_limits_by_itself() -> Result<()> {
    const TIME: Duration = Duration::from_secs(5);
    let app = App::start().await?;
    let mut redis = RedisServer::start().await?;
    let limit = format!("rate = {RATE}\nburst = {BURST}\n");
    let pair = two(&lines(&app, &redis, &limit)).await?;
    let urls = pair
        .each_ref()
        .map(|gateway| format!("http://{}/status/204", gateway.address()));
    let cut = async {
        tokio::time::sleep(TIME / 5).await;
        redis.stop().await
    };
    let (counted, stopped) = tokio::join!(paced::ask(&urls, 10 * RATE, TIME), cut);
    stopped?;
    let counted = counted?;
    report_figure(format_args!(
        "Redis was cut after {:?}: {} of {} requests admitted in {:.2?}, the slowest in {:.0?}",
        TIME / 5,
        counted.admitted,
        counted.asked,
        counted.time,
        counted.slowest
    ));
    // Each worker grants the whole rate now; its own bucket was not full when that began.
    let alone = TIME.as_secs_f64() - TIME.as_secs_f64() / 5.0;
    let most = f64::from(RATE) * (counted.time.as_secs_f64() + alone) + f64::from(3 * BURST);
    ensure!(f64::from(counted.admitted) < most * 1.02, "{counted:?}");
    ensure!(counted.admitted > RATE * 5, "{counted:?}");
    ensure!(counted.slowest < Duration::from_secs(2), "{counted:?}");
    for gateway in &pair {
        gateway
            .program
            .logged(&["each worker limits by itself"])
            .await?;
    }

    redis.restart().await?;
    eventually(
        "the limit is shared again",
        Duration::from_secs(20),
        async || {
            let counted = paced::ask(&urls, 10 * RATE, Duration::from_secs(2)).await?;
            ensure!(counted.off(RATE, BURST) < 0.1, "{counted:?}");
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn a_redis_that_hangs_holds_nobody_up() -> Result<()> {
    let (app, redis) = (App::start().await?, RedisServer::start().await?);
    let limit = format!("rate = {RATE}\nburst = {BURST}\n");
    let pair = two(&lines(&app, &redis, &limit)).await?;
    let url = format!("http://{}/status/204", pair[0].address());
    redis.freeze(true).await?;
    let counted = paced::ask(&[url], RATE, Duration::from_secs(3)).await;
    redis.freeze(false).await?;
    let counted = counted?;
    report_figure(format_args!(
        "while Redis hung: {} of {} requests admitted, the slowest in {:.0?}",
        counted.admitted, counted.asked, counted.slowest
    ));
    ensure!(counted.slowest < Duration::from_secs(1), "{counted:?}");
    ensure!(counted.admitted > counted.asked / 2, "{counted:?}");
    Ok(())
}
