//! Services with several instances: how the gateway chooses, keeps clients at their instance, and
//! what it does when an instance fails.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::eventually::eventually;
use patchbay_tests::gateway::{Gateway, service};
use reqwest::Method;

use crate::report_figure;

const ROUTE: &str = "[gateway.routes.app]\nservice = \"app\"\n";

async fn three() -> Result<[App; 3]> {
    Ok([
        App::start().await?,
        App::start().await?,
        App::start().await?,
    ])
}

fn of(apps: &[App]) -> String {
    let apps: Vec<&App> = apps.iter().collect();
    service("app", &apps)
}

/// How many requests for `path` each app got.
fn shares(apps: &[App], path: &str) -> Vec<usize> {
    apps.iter().map(|app| app.seen(path).len()).collect()
}

#[tokio::test]
async fn in_turn_or_by_weight() -> Result<()> {
    let apps = three().await?;
    let gateway = Gateway::start(&format!("{}{ROUTE}", of(&apps))).await?;
    for _ in 0..30 {
        gateway.get("/turn", &[]).await?.expect(200)?;
    }
    assert_eq!(shares(&apps, "/turn"), [10, 10, 10]);

    let weighted = format!(
        "[gateway.services.app]\nbalance = \"weighted\"\ninstances = [\
         {{ address = \"{}\", weight = 8 }}, {{ address = \"{}\", weight = 2 }}, \
         {{ address = \"{}\", weight = 0 }}]\n{ROUTE}",
        apps[0].address, apps[1].address, apps[2].address
    );
    gateway.reload(&weighted).await?;
    gateway.program.logged(&["is in force"]).await?;
    for _ in 0..200 {
        gateway.get("/weight", &[]).await?.expect(200)?;
    }
    let shares = shares(&apps, "/weight");
    ensure!(
        (130..=190).contains(&shares[0]) && shares[2] == 0,
        "{shares:?}"
    );
    Ok(())
}

#[tokio::test]
async fn by_hash_the_same_key_reaches_the_same_instance() -> Result<()> {
    for (by, header, value) in [
        ("header:x-tenant", "x-tenant", ""),
        ("cookie:tenant", "cookie", "a=b; tenant="),
    ] {
        let apps = three().await?;
        let lines = format!("{}balance = \"hash\"\nhash_by = {by:?}\n{ROUTE}", of(&apps));
        let gateway = Gateway::start(&lines).await?;
        let mut used = BTreeMap::new();
        for tenant in 0..30 {
            let name = format!("{value}tenant-{tenant}");
            let path = format!("/hash/{tenant}");
            for round in 0..3 {
                gateway.get(&path, &[(header, &name)]).await?.expect(200)?;
                let shares = shares(&apps, &path);
                let at = shares.iter().position(|count| *count > 0);
                let at = at.context("nobody")?;
                assert_eq!(shares[at], round + 1, "{name} moved: {shares:?}");
                *used.entry(at).or_insert(0) += 1;
            }
            assert_eq!(gateway.upgrade("/ws/first", &[(header, &name)]).await?, 101);
        }
        assert_eq!(used.len(), 3, "{by}: {used:?}");
        let sockets = shares(&apps, "/ws/first");
        let requests: Vec<usize> = (0..3)
            .map(|at| used.get(&at).map_or(0, |n| n / 3))
            .collect();
        assert_eq!(sockets, requests, "{by}: a WebSocket went elsewhere");
    }
    Ok(())
}

#[tokio::test]
async fn by_hash_of_addresses_a_client_stays_where_it_is() -> Result<()> {
    let apps = three().await?;
    let lines = format!("{}balance = \"hash\"\n{ROUTE}", of(&apps));
    let gateway = Gateway::start(&lines).await?;
    let mut used = BTreeMap::new();
    for host in 1..30 {
        let from = std::net::IpAddr::from([127, 0, 7, host]);
        let client = reqwest::Client::builder().local_address(from).build()?;
        let path = format!("/from/{host}");
        for _ in 0..3 {
            let url = format!("http://{}{path}", gateway.address());
            assert_eq!(client.get(url).send().await?.status(), 200);
        }
        let shares = shares(&apps, &path);
        let at = shares.iter().position(|count| *count == 3);
        *used
            .entry(at.with_context(|| format!("{shares:?}"))?)
            .or_insert(0) += 1;
    }
    assert_eq!(used.len(), 3, "{used:?}");
    Ok(())
}

#[tokio::test]
async fn a_cookie_keeps_a_client_and_its_websocket_where_they_are() -> Result<()> {
    let mut apps = Vec::from(three().await?);
    let lines = |apps: &[App]| {
        let sticky = "sticky = { cookie = \"where\", lifetime = \"1h\" }\n";
        format!(
            "sticky_secret = \"the operator's\"\n{}{sticky}{ROUTE}",
            of(apps)
        )
    };
    let gateway = Gateway::start(&lines(&apps)).await?;
    let first = gateway.get("/first", &[]).await?.expect(200)?;
    let set = first.header("set-cookie").to_owned();
    ensure!(
        set.contains("HttpOnly") && set.contains("Max-Age=3600"),
        "{set}"
    );
    let cookie = set.split(';').next().context("no cookie")?;
    let home = shares(&apps, "/first").iter().position(|count| *count == 1);
    let home = home.context("nobody got it")?;
    for app in &apps {
        ensure!(
            !set.contains(&app.address.to_string()),
            "{set} shows an address"
        );
    }
    for _ in 0..10 {
        let answer = gateway
            .get("/again", &[("cookie", cookie)])
            .await?
            .expect(200)?;
        assert_eq!(answer.header("set-cookie"), "");
        assert_eq!(
            gateway.upgrade("/ws/first", &[("cookie", cookie)]).await?,
            101
        );
    }
    assert_eq!(shares(&apps, "/again")[home], 10);
    assert_eq!(shares(&apps, "/ws/first")[home], 10);

    // A cookie somebody made up leads nowhere in particular.
    let forged = "where=00000000000000000000000000000000";
    let answer = gateway
        .get("/forged", &[("cookie", forged)])
        .await?
        .expect(200)?;
    ensure!(
        answer.header("set-cookie").starts_with("where="),
        "no new cookie"
    );

    // The instance goes: the client moves, and is told.
    let gone = apps.remove(home);
    gateway.reload(&lines(&apps)).await?;
    gateway.program.logged(&["is in force"]).await?;
    let answer = gateway
        .get("/moved", &[("cookie", cookie)])
        .await?
        .expect(200)?;
    let moved = answer.header("set-cookie");
    ensure!(
        moved.starts_with("where=") && !moved.starts_with(cookie),
        "{moved}"
    );
    ensure!(
        gone.seen("/moved").is_empty(),
        "it went to the one that is gone"
    );
    Ok(())
}

#[tokio::test]
async fn a_failing_instance_is_left_alone() -> Result<()> {
    const REQUESTS: usize = 1_500;
    let apps = three().await?;
    apps[0].fail_every_other(true);
    let lines = format!(
        "{}breaker = {{ minimum = 10, ratio = 0.4, open_for = \"30s\" }}\n{ROUTE}",
        of(&apps)
    );
    let gateway = Gateway::start(&lines).await?;
    let client = patchbay_tests::browser::client()?;
    let url = format!("http://{}/steady", gateway.address());
    let mut errors = 0;
    for _ in 0..REQUESTS {
        if client.get(&url).send().await?.status() != 200 {
            errors += 1;
        }
    }
    let shares = shares(&apps, "/steady");
    let all: usize = shares.iter().sum();
    report_figure(format_args!(
        "one of three instances fails every other request: {errors} of {REQUESTS} clients noticed, \
         it got {} of {all} requests",
        shares[0]
    ));
    ensure!(errors * 200 <= REQUESTS, "{errors} errors");
    ensure!(shares[0] * 20 < REQUESTS, "it got {} requests", shares[0]);
    ensure!(all * 10 <= REQUESTS * 12, "{all} requests for {REQUESTS}");
    gateway.program.logged(&["breaker of", "opens"]).await?;

    // A POST is not sent twice, whatever comes of it.
    let before: usize = self::shares(&apps, "/post").iter().sum();
    for _ in 0..6 {
        gateway.ask(Method::POST, "/post", &[]).await?;
    }
    let after: usize = self::shares(&apps, "/post").iter().sum();
    assert_eq!(after - before, 6);
    Ok(())
}

#[tokio::test]
async fn a_breaker_closes_when_its_instance_is_well_again() -> Result<()> {
    let app = App::start().await?;
    app.fail_every_other(true);
    let lines = format!(
        "{}breaker = {{ consecutive = 100, ratio = 0.4, minimum = 4, open_for = \"1s\" }}\n{ROUTE}",
        service("app", &[&app])
    );
    let gateway = Gateway::start(&lines).await?;
    for _ in 0..4 {
        gateway.get("/x", &[]).await?;
    }
    let refused = gateway.get("/x", &[]).await?.expect(503)?;
    assert_eq!(
        refused.json()?["type"],
        "https://api.backend.ai/probs/gateway/service-unavailable"
    );
    assert_eq!(
        gateway.upgrade("/ws/first", &[]).await?,
        503,
        "WebSockets too"
    );
    let metrics = gateway.metrics().await?;
    ensure!(metrics.contains("state=\"open\"} 1"), "{metrics}");
    app.fail_every_other(false);
    eventually("the breaker closes", Duration::from_secs(10), async || {
        gateway.get("/x", &[]).await?.expect(200)?;
        gateway
            .program
            .log()
            .contains("is closed")
            .then_some(())
            .context("not closed")
    })
    .await
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_given_up_in_time() -> Result<()> {
    let app = App::start().await?;
    let route = "[gateway.routes.app]\nservice = \"app\"\nresponse_timeout = \"500ms\"\n";
    let lines = service("app", &[&app]) + route;
    let gateway = Gateway::start(&lines).await?;
    for (more, status) in [("", 408), ("timeout_status = 504\n", 504)] {
        gateway.reload(&format!("{more}{lines}")).await?;
        eventually(
            "the status is taken over",
            Duration::from_secs(10),
            async || {
                let began = Instant::now();
                let answer = gateway.get("/never", &[]).await?;
                ensure!(
                    began.elapsed() < Duration::from_secs(5),
                    "{:?}",
                    began.elapsed()
                );
                answer.expect(status)
            },
        )
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn checks_find_who_is_unwell() -> Result<()> {
    let apps = three().await?;
    let lines = format!(
        "{}health = {{ path = \"/healthz\", interval = \"200ms\" }}\n{ROUTE}",
        of(&apps)
    );
    let gateway = Gateway::start(&lines).await?;
    apps[1].answer_checks(503);
    let spared = || shares(&apps, "/x")[1];
    eventually(
        "the unwell one is spared",
        Duration::from_secs(10),
        async || {
            let before = spared();
            for _ in 0..6 {
                gateway.get("/x", &[]).await?.expect(200)?;
            }
            ensure!(spared() == before, "it still gets requests");
            Ok(())
        },
    )
    .await?;
    apps[1].answer_checks(200);
    eventually("it is used again", Duration::from_secs(20), async || {
        let before = spared();
        for _ in 0..30 {
            gateway.get("/x", &[]).await?.expect(200)?;
        }
        ensure!(spared() > before, "it gets no requests");
        Ok(())
    })
    .await
}
