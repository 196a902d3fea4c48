//! Event streams and WebSockets on routes that watch over them: comments while a service is
//! silent, an end when it is silent for too long, pages that may not listen; and how many
//! connections ordinary requests may take.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::browser::client;
use patchbay_tests::eventually::eventually;
use patchbay_tests::gateway::{Gateway, service};
use patchbay_tests::socket::{self, Handshake};
use tokio_tungstenite::tungstenite::Message;

async fn gate(app: &App, service_keys: &str, route_keys: &str) -> Result<Gateway> {
    let service = service("app", &[app]);
    Gateway::start(&format!(
        "{service}{service_keys}[gateway.routes.app]\nservice = \"app\"\n{route_keys}"
    ))
    .await
}

async fn listen(gateway: &Gateway, path: &str) -> Result<reqwest::Response> {
    let url = format!("http://{}{path}", gateway.address());
    let request = client()?.get(url).header("accept", "text/event-stream");
    Ok(request.send().await?)
}

/// Reads until what has been read holds `wanted`.
async fn until(answer: &mut reqwest::Response, read: &mut String, wanted: &str) -> Result<()> {
    while !read.contains(wanted) {
        let piece = tokio::time::timeout(Duration::from_secs(10), answer.chunk());
        let piece = piece
            .await
            .with_context(|| format!("no {wanted:?} in {read:?}"))??;
        let piece = piece.with_context(|| format!("ended after {read:?}"))?;
        read.push_str(std::str::from_utf8(&piece)?);
    }
    Ok(())
}

#[tokio::test]
async fn a_silent_stream_gets_comments_between_its_lines() -> Result<()> {
    let app = App::start().await?;
    let gateway = gate(&app, "", "sse_keepalive = \"200ms\"\n").await?;
    let mut stream = listen(&gateway, "/events/2").await?;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut read = String::new();
    until(&mut stream, &mut read, ":\n:\n").await?;
    app.release(1);
    until(&mut stream, &mut read, "data: event 0\n\n").await?;
    until(&mut stream, &mut read, "data: event 0\n\n:\n").await?;
    app.release(1);
    until(&mut stream, &mut read, "data: event 1\n\n").await?;
    ensure!(stream.chunk().await?.is_none(), "more after the end");
    let lines = read.lines().filter(|line| !line.is_empty() && *line != ":");
    assert_eq!(
        lines.collect::<Vec<_>>(),
        ["data: event 0", "data: event 1"]
    );
    // What is no event stream gets none, whatever was asked for.
    let mut pieces = listen(&gateway, "/pieces/1").await?;
    tokio::time::sleep(Duration::from_millis(600)).await;
    app.release(1);
    let mut read = String::new();
    until(&mut pieces, &mut read, "\n").await?;
    assert_eq!(read, "piece 0\n");

    // The service hears of a reader that goes away though it says nothing itself.
    let gone = listen(&gateway, "/events/1").await?;
    let outstanding = "instance_outstanding{service=\"app\"";
    let busy = |text: &str| {
        let line = text.lines().find(|line| line.contains(outstanding));
        line.is_some_and(|line| !line.ends_with(" 0"))
    };
    ensure!(busy(&gateway.metrics().await?), "it is not counted");
    drop(gone);
    eventually("the stream ends", Duration::from_secs(10), async || {
        ensure!(!busy(&gateway.metrics().await?), "still under way");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn silence_has_an_end_where_the_route_says_so() -> Result<()> {
    const LIMIT: Duration = Duration::from_millis(600);
    let app = App::start().await?;
    let gateway = gate(&app, "", "idle_timeout = \"600ms\"\n").await?;
    let mut stream = listen(&gateway, "/events/9").await?;
    let began = Instant::now();
    ensure!(stream.chunk().await?.is_none(), "somebody spoke");
    ensure!(began.elapsed() >= LIMIT * 9 / 10, "{:?}", began.elapsed());
    ensure!(began.elapsed() < LIMIT * 10, "{:?}", began.elapsed());

    let url = format!("ws://{}/ws/echo", gateway.address());
    let address = gateway.address().parse()?;
    let Handshake::Open(mut open, _) = socket::handshake_at(&url, address, &[]).await? else {
        anyhow::bail!("the WebSocket is refused");
    };
    use futures_util::{SinkExt as _, StreamExt as _};
    let began = Instant::now();
    // It lives for as long as somebody speaks.
    while began.elapsed() < LIMIT * 2 {
        open.send("still here".into()).await?;
        assert_eq!(socket::next(&mut open).await?.to_text()?, "still here");
        tokio::time::sleep(LIMIT / 6).await;
    }
    let began = Instant::now();
    let ended = tokio::time::timeout(LIMIT * 10, open.next()).await?;
    let code = match &ended {
        Some(Ok(Message::Close(Some(frame)))) => u16::from(frame.code),
        _ => 0,
    };
    assert_eq!(code, 1_001, "{ended:?}");
    ensure!(began.elapsed() >= LIMIT * 3 / 4, "{:?}", began.elapsed());
    let said = gateway.program.logged(&["ACCESS websocket", "end=idle"]);
    said.await.map(drop)
}

#[tokio::test]
async fn only_some_pages_may_listen() -> Result<()> {
    let app = App::start().await?;
    let gateway = gate(&app, "", "origins = [\"https://app.example\"]\n").await?;
    let good = ("origin", "https://app.example");
    let events = ("accept", "text/html, text/event-stream;q=0.9");
    for bad in [
        "https://evil.example",
        "null",
        "https://app.example.evil",
        "",
    ] {
        let bad = ("origin", bad);
        assert_eq!(gateway.upgrade("/ws/first", &[bad]).await?, 403, "{bad:?}");
        let stream = gateway.get("/events/0", &[bad, events]).await?;
        stream.expect(403)?;
        // Browsers guard ordinary answers themselves.
        gateway.get("/hello", &[bad]).await?.expect(200)?;
    }
    ensure!(app.seen("/events/0").is_empty() && app.seen("/ws/first").is_empty());
    assert_eq!(gateway.upgrade("/ws/first", &[good]).await?, 101);
    assert_eq!(gateway.upgrade("/ws/first", &[]).await?, 101);
    gateway
        .get("/events/0", &[good, events])
        .await?
        .expect(200)?;
    Ok(())
}

#[tokio::test]
async fn an_upgrade_has_the_time_its_route_grants() -> Result<()> {
    let app = App::start().await?;
    let gateway = gate(&app, "", "response_timeout = \"500ms\"\n").await?;
    let began = Instant::now();
    assert_eq!(gateway.upgrade("/never", &[]).await?, 408);
    ensure!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn streams_take_no_connection_from_requests() -> Result<()> {
    let app = App::start().await?;
    let gateway = gate(&app, "max_connections = 1\n", "").await?;
    // Streams beyond the limit, and a request besides.
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(listen(&gateway, "/events/1").await?);
    }
    let url = format!("ws://{}/ws/echo", gateway.address());
    let address = gateway.address().parse()?;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        match socket::handshake_at(&url, address, &[]).await? {
            Handshake::Open(open, _) => sockets.push(open),
            Handshake::Refused(status, _) => anyhow::bail!("{status}"),
        }
    }
    gateway.get("/hello", &[]).await?.expect(200)?;
    // Two requests at once: the second is sent when the first is through.
    let slow = listen(&gateway, "/pieces/1").await?;
    let quick = gateway.get("/hello", &[]);
    tokio::pin!(quick);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut quick).await;
    ensure!(early.is_err(), "it did not wait");
    // Three of them may go to the streams.
    app.release(4);
    slow.bytes().await?;
    quick.await?.expect(200)?;
    Ok(())
}
