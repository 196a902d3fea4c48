//! Time-outs are off unless the operator asks for them, for the worker or for an app; each says
//! which it was. Whichever engine carries the request.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use patchbay_tests::browser::Browser;
use patchbay_tests::opener::Order;
use patchbay_tests::raw::{Connection, OneShotApp};
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::socket::{self, Handshake};
use reqwest::Method;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

const TIMES: &str = "[timeouts]\nby_app = { slow = { first_byte = 0.4 }, quiet = { idle = 0.4, \
                     websocket_idle = 0.4, tcp_idle = 0.4 }, long = { total = 0.8 } }\n";
/// Nothing that is timed out here takes longer.
const SOON: Duration = Duration::from_secs(3);

async fn rig(fast_lane: bool) -> Result<Rig> {
    Rig::start(Parts::embedded().worker(TIMES).fast_lane(fast_lane)).await
}

/// An app that reads a head and says nothing.
async fn silent() -> Result<OneShotApp<()>> {
    OneShotApp::start(|mut connection| async move {
        connection.read_head().await?;
        connection.closed().await
    })
    .await
}

/// An app that begins an answer, and sends a piece of it every so often, or none.
async fn begins(every: Option<Duration>) -> Result<OneShotApp<()>> {
    OneShotApp::start(move |mut connection| async move {
        connection.read_head().await?;
        connection
            .write_head(&[
                "HTTP/1.1 200 OK",
                "Content-Type: text/event-stream",
                "Transfer-Encoding: chunked",
            ])
            .await?;
        connection.write("7\r\ndata: 1\r\n").await?;
        let Some(every) = every else {
            return connection.closed().await;
        };
        loop {
            tokio::time::sleep(every).await;
            if connection.write("7\r\ndata: 2\r\n").await.is_err() {
                return Ok(());
            }
        }
    })
    .await
}

async fn ask(door: &Door) -> Result<Connection> {
    let mut client = Connection::open(door.address()?).await?;
    let (host, cookie) = (
        format!("Host: {}", door.host()),
        format!("Cookie: {}", door.cookie()),
    );
    client
        .write_head(&["GET /stream HTTP/1.1", &host, &cookie])
        .await?;
    Ok(client)
}

async fn an_app_that_does_not_begin(fast_lane: bool) -> Result<()> {
    let rig = rig(fast_lane).await?;
    let app = silent().await?;
    let door = rig.open_order(&Order::http("slow", app.address)).await?;
    let begun = Instant::now();
    let request = door.browser.request(Method::GET, &door.at("/model"))?;
    let answer = door.browser.send(request).await?.expect(504)?;
    ensure!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let body = answer.json()?;
    let msg = body["msg"].as_str().unwrap_or_default();
    ensure!(msg.contains("(first-byte time-out)"), "{body}");
    ensure!(answer.header("x-backend-request-id").len() > 8);
    app.outcome()
        .await
        .context("the app's connection is kept")?;

    // The upgrade is a request too.
    let app = silent().await?;
    let order = Order::http("slow", app.address);
    let door = rig.open_order(&order).await?;
    match socket::handshake(&door, "/ws", &door.cookie(), &[]).await? {
        Handshake::Open(..) => bail!("a silent app opens a WebSocket"),
        Handshake::Refused(status, body) => {
            ensure!(
                status == 504 && body.contains("first-byte"),
                "{status}: {body}"
            );
        }
    }
    let at = format!("{}/metrics", rig.worker.url());
    let metrics = Browser::new()?.get(&at).await?.expect(200)?.text();
    let counted = "patchbay_upstream_errors_total{kind=\"first_byte_timeout\"} 2";
    ensure!(metrics.contains(counted), "not counted");
    Ok(())
}

async fn an_answer_that_stops_or_takes_too_long(fast_lane: bool) -> Result<()> {
    let rig = rig(fast_lane).await?;
    let often = Some(Duration::from_millis(100));
    for (name, every, word) in [("quiet", None, "idle"), ("long", often, "total")] {
        let app = begins(every).await?;
        let door = rig.open_order(&Order::http(name, app.address)).await?;
        let begun = Instant::now();
        let mut client = ask(&door).await?;
        assert_eq!(client.read_head().await?.status(), "200");
        let body = client.read_to_end().await.unwrap_or_default();
        let body = String::from_utf8_lossy(&body).into_owned();
        let took = begun.elapsed();
        ensure!(body.contains("data: 1"), "{name}: {body}");
        ensure!(
            !body.ends_with("0\r\n\r\n"),
            "{name}: cut, not ended: {body}"
        );
        ensure!(took > Duration::from_millis(350) && took < SOON, "{took:?}");
        let line = format!("({word} time-out)");
        rig.worker.program.logged(&["ACCESS", &line]).await?;
        app.outcome().await?;
    }
    Ok(())
}

async fn a_stream_nobody_bounds(fast_lane: bool) -> Result<()> {
    let rig = rig(fast_lane).await?;
    let app = begins(None).await?;
    let door = rig.open_order(&Order::http("jupyter", app.address)).await?;
    let mut client = ask(&door).await?;
    assert_eq!(client.read_head().await?.status(), "200");
    client.read_exactly(12).await?;
    let silence = tokio::time::timeout(Duration::from_secs(2), client.read_exactly(1)).await;
    ensure!(silence.is_err(), "a live stream ends unasked: {silence:?}");
    Ok(())
}

#[tokio::test]
async fn first_byte_by_the_lane() -> Result<()> {
    an_app_that_does_not_begin(true).await
}

#[tokio::test]
async fn first_byte_without_the_lane() -> Result<()> {
    an_app_that_does_not_begin(false).await
}

#[tokio::test]
async fn idle_and_total_by_the_lane() -> Result<()> {
    an_answer_that_stops_or_takes_too_long(true).await
}

#[tokio::test]
async fn idle_and_total_without_the_lane() -> Result<()> {
    an_answer_that_stops_or_takes_too_long(false).await
}

#[tokio::test]
async fn none_unless_asked_for() -> Result<()> {
    a_stream_nobody_bounds(true).await?;
    a_stream_nobody_bounds(false).await
}

#[tokio::test]
async fn a_quiet_websocket_hears_why_it_ends() -> Result<()> {
    let rig = rig(true).await?;
    let door = rig.open("quiet").await?;
    let (mut socket, _) = socket::open(&door, "/ws/echo", &[]).await?;
    let Message::Close(Some(frame)) = socket::next(&mut socket).await? else {
        bail!("no close frame");
    };
    assert_eq!(u16::from(frame.code), 1001);
    assert_eq!(frame.reason.as_str(), "idle for too long");
    let end = "end=idle-time-out";
    rig.worker
        .program
        .logged(&["ACCESS websocket", end])
        .await?;

    // Of an app that is closed, too.
    let door = rig.open("jupyter").await?;
    let (mut socket, _) = socket::open(&door, "/ws/echo", &[]).await?;
    rig.opener.close(door.circuit).await?;
    let Message::Close(Some(frame)) = socket::next(&mut socket).await? else {
        bail!("no close frame");
    };
    assert_eq!(frame.reason.as_str(), "the app was closed");
    Ok(())
}

#[tokio::test]
async fn a_quiet_tcp_connection_ends() -> Result<()> {
    let rig = Rig::start(Parts::embedded().worker(TIMES).protocol("tcp")).await?;
    let app = OneShotApp::start(|mut connection| async move {
        connection.write("hello").await?;
        connection.closed().await
    })
    .await?;
    let mut order = Order::http("quiet", app.address).with("open_to_public", "true");
    order.protocol = "tcp".into();
    let circuit = rig.opener.open(&order).await?.circuit;
    let port = rig.opener.circuit(circuit).await?["port"].as_u64();
    let port = u16::try_from(port.context("no port")?)?;
    let mut client = Connection::over(TcpStream::connect(("127.0.0.1", port)).await?);
    assert_eq!(client.read_exactly(5).await?, b"hello");
    tokio::time::timeout(SOON, client.closed())
        .await
        .context("it stays open")??;
    app.outcome().await?;
    let end = "end=idle-time-out";
    rig.worker.program.logged(&["ACCESS tcp", end]).await?;
    Ok(())
}
