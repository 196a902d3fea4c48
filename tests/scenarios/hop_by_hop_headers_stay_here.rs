//! Headers of one connection do not travel to the next (RFC 9110 §7.6.1), and those that tell
//! the app who called are right.

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::opener::Order;
use patchbay_tests::raw::{Connection, Head, OneShotApp};
use patchbay_tests::rig::{Parts, Rig};
use reqwest::Method;

/// Sends a request by hand to an app by hand; what each side got.
async fn exchange(
    request: &'static [&'static str],
    answer: &'static [&'static str],
) -> Result<(Head, Head)> {
    let rig = Rig::start(Parts::embedded()).await?;
    let app = OneShotApp::start(move |mut app: Connection| async move {
        let head = app.read_head().await?;
        app.write_head(answer).await?;
        Ok(head)
    })
    .await?;
    let door = rig.open_order(&Order::http("by-hand", app.address)).await?;
    let mut client = Connection::open(door.address()?).await?;
    let host = format!("Host: {}", door.host());
    let cookie = format!("Cookie: {}", door.cookie());
    let lines: Vec<&str> = [request[0], &host, &cookie]
        .into_iter()
        .chain(request[1..].iter().copied())
        .collect();
    client.write_head(&lines).await?;
    let answered = client.read_head().await?;
    Ok((app.outcome().await?, answered))
}

#[tokio::test]
async fn of_requests() -> Result<()> {
    let (request, _) = exchange(
        &[
            "GET /x HTTP/1.1",
            "Connection: keep-alive, X-Private",
            "X-Private: of this connection",
            "Keep-Alive: timeout=5",
            "Proxy-Authorization: Basic cGF0Y2g6YmF5",
            "Proxy-Connection: keep-alive",
            "TE: trailers, deflate",
            "Trailer: X-Sum",
            "X-Public: for the app",
        ],
        &["HTTP/1.1 200 OK", "Content-Length: 0"],
    )
    .await?;
    for gone in [
        "x-private",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
    ] {
        ensure!(
            request.header(gone).is_none(),
            "{gone} reached the app: {request:?}"
        );
    }
    let connection = request.header("connection").unwrap_or_default();
    ensure!(!connection.contains("X-Private"), "{connection}");
    assert_eq!(request.header("x-public"), Some("for the app"));
    Ok(())
}

#[tokio::test]
async fn of_answers() -> Result<()> {
    let (_, answer) = exchange(
        &["GET /x HTTP/1.1"],
        &[
            "HTTP/1.1 200 OK",
            "Content-Length: 0",
            "Connection: keep-alive, X-Inner",
            "X-Inner: of this connection",
            "Keep-Alive: timeout=5",
            "Proxy-Authenticate: Basic",
            "X-Public: for the client",
            "Server: the app itself",
        ],
    )
    .await?;
    for gone in ["x-inner", "proxy-authenticate"] {
        ensure!(
            answer.header(gone).is_none(),
            "{gone} reached the client: {answer:?}"
        );
    }
    ensure!(
        answer.header("keep-alive") != Some("timeout=5"),
        "{answer:?}"
    );
    assert_eq!(answer.header("x-public"), Some("for the client"));
    assert_eq!(answer.header("server"), Some("the app itself"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    Ok(())
}

#[tokio::test]
async fn an_upgrade_nobody_asked_the_app_for_is_not_passed_on() -> Result<()> {
    let (request, answer) = exchange(
        &[
            "GET /x HTTP/1.1",
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
        ],
        &["HTTP/1.1 200 OK", "Content-Length: 0"],
    )
    .await?;
    ensure!(request.header("upgrade").is_none(), "{request:?}");
    ensure!(request.header("http2-settings").is_none(), "{request:?}");
    assert_eq!(answer.status(), "200");
    Ok(())
}

#[tokio::test]
async fn the_app_learns_who_called_and_how() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("rstudio").await?;
    door.get("/a%20b/c?d=%2F&e").await?.expect(200)?;
    let seen = rig.app.seen("/a%20b/c").pop().context("nothing seen")?;
    assert_eq!(seen.uri.to_string(), "/a%20b/c?d=%2F&e");
    let port = door.address()?.port().to_string();
    assert_eq!(seen.header("host"), door.host());
    assert_eq!(seen.header("x-forwarded-host"), door.host());
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    assert_eq!(seen.header("x-forwarded-port"), port);
    ensure!(
        seen.header("x-forwarded-for").starts_with("127.0.0.1"),
        "{seen:?}"
    );
    ensure!(seen.header("forwarded").contains("proto=http"), "{seen:?}");
    assert_eq!(seen.header("x-rstudio-proto"), "http");
    // Decoded, as RStudio gets it from the incumbent (contract/data-plane.md §6).
    assert_eq!(
        seen.header("x-rstudio-request"),
        format!("http://{}/a b/c", door.host())
    );
    Ok(())
}

#[tokio::test]
async fn a_client_cannot_claim_another_address() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let order = rig
        .order("jupyter")
        .with("allowed_client_ips", "10.0.0.0/8");
    let door = rig.open_order(&order).await?;
    let request = door.browser.request(Method::GET, &door.at("/hello"))?;
    let request = request.header("x-forwarded-for", "10.1.2.3");
    door.browser.send(request).await?.expect(403)?;
    Ok(())
}

#[tokio::test]
async fn repeated_headers_and_redirects_pass_as_they_are() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let answer = door.get("/cookies").await?.expect(200)?;
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    let answer = door.get("/redirect").await?.expect(303)?;
    assert_eq!(answer.header("location"), "/hello?after=redirect");
    // No jar of ours hands one person's cookies to the next.
    let other = patchbay_tests::browser::Browser::new()?;
    let url = patchbay_tests::rig::enter(&other, &door.opened).await?;
    other.get(&format!("{url}/after")).await?.expect(200)?;
    assert_eq!(rig.app.seen("/after")[0].header("cookie"), "");
    Ok(())
}
