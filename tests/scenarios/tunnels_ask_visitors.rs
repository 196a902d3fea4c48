//! A tunnel that asks for a token lets nobody in without it, by request or by WebSocket, and its
//! service never sees it; a token that is taken back sends its agents away.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::eventually::eventually;
use patchbay_tests::gateway::Gateway;
use patchbay_tests::lending::{Agent, lend, section};
use reqwest::Method;

#[tokio::test]
async fn a_token_lets_in_and_stays_outside() -> Result<()> {
    let (gateway, app) = (Gateway::start(&section("")).await?, App::start().await?);
    let lent = lend("api@open-sesame", &app);
    let _agent = Agent::start(&gateway, "laptop", &[&lent]).await?;
    let link = [("x-tunnel-token", "open-sesame")];
    let link = gateway
        .ask(Method::POST, "/api/tunnels/api/link", &link)
        .await?;
    let link = link.expect(200)?.json()?["link"]
        .as_str()
        .context("a link")?
        .to_owned();
    let entered = gateway.get(&link, &[]).await?.expect(303)?;
    assert_eq!(entered.header("location"), "/t/api/");
    let cookie = entered.header("set-cookie").to_owned();
    ensure!(
        cookie.contains("HttpOnly") && cookie.contains("Path=/t/api/"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().context("a cookie")?.to_owned();
    let with_own = format!("mine=1; {cookie}");
    let forged = format!("{}x", cookie);
    for (status, headers) in [
        (401, vec![]),
        (401, vec![("x-tunnel-token", "open-sesame2")]),
        (401, vec![("authorization", "Bearer ")]),
        (401, vec![("authorization", "Basic open-sesame")]),
        (401, vec![("cookie", forged.as_str())]),
        (200, vec![("x-tunnel-token", "open-sesame")]),
        (200, vec![("authorization", "Bearer open-sesame")]),
        (200, vec![("cookie", with_own.as_str())]),
        (
            200,
            vec![
                ("x-tunnel-token", "open-sesame"),
                ("authorization", "Bearer the-apps-own"),
            ],
        ),
    ] {
        let plain = gateway.get("/t/api/hello", &headers).await?.status.as_u16();
        let upgrade = gateway.upgrade("/t/api/ws/first", &headers).await?;
        let expected = (status, if status == 200 { 101 } else { status });
        assert_eq!((plain, upgrade), expected, "{headers:?}");
    }
    for path in ["/hello", "/ws/first"] {
        let seen = app.seen(path);
        assert_eq!(seen.len(), 4, "{path}");
        for one in &seen {
            for (name, value) in &one.headers {
                let text = format!("{name}: {value:?}");
                ensure!(
                    !text.contains("sesame") && !text.contains("patchbay_tunnel"),
                    "{text}"
                );
            }
        }
        assert_eq!(seen[2].header("cookie"), "mine=1");
        assert_eq!(seen[3].header("authorization"), "Bearer the-apps-own");
    }
    // A link is good once.
    assert_eq!(gateway.get(&link, &[]).await?.status, 401);
    ensure!(
        !gateway.program.log().contains("sesame"),
        "the token is in the log"
    );
    Ok(())
}

#[tokio::test]
async fn a_token_taken_back_sends_its_agents_away() -> Result<()> {
    let (gateway, app) = (Gateway::start(&section("")).await?, App::start().await?);
    let _agent = Agent::start(&gateway, "laptop", &[&lend("web", &app)]).await?;
    gateway.get("/t/web/hello", &[]).await?.expect(200)?;
    gateway
        .reload(&section("").replace("token-of-the-scenarios", "another"))
        .await?;
    eventually(
        "the agent is sent away",
        Duration::from_secs(10),
        async || {
            let answer = gateway.get("/t/web/hello", &[]).await?;
            ensure!(answer.status == 503, "{}", answer.status);
            Ok(())
        },
    )
    .await?;
    gateway.reload(&section("")).await?;
    eventually("it is let in again", Duration::from_secs(40), async || {
        let answer = gateway.get("/t/web/hello", &[]).await?;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    })
    .await
}
