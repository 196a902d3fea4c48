//! Bodies of any size pass piece by piece, in both directions, without being held back.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use patchbay_tests::app::{digest, download};
use patchbay_tests::opener::Order;
use patchbay_tests::raw::{Connection, OneShotApp};
use patchbay_tests::rig::{Parts, Rig};
use reqwest::{Body, Method};

/// Bytes of a large body.
const LARGE: usize = 24 << 20;

#[tokio::test]
async fn a_large_download_is_whole() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let answer = door.get(&format!("/download/{LARGE}")).await?.expect(200)?;
    assert_eq!(answer.header("content-length"), LARGE.to_string());
    assert_eq!(answer.body.len(), LARGE);
    assert_eq!(digest(&answer.body), digest(&download(LARGE)));
    Ok(())
}

#[tokio::test]
async fn a_large_upload_is_whole_with_and_without_a_length() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let body = Bytes::from(download(LARGE));
    let expected = digest(&body);
    let pieces: Vec<Bytes> = (0..LARGE)
        .step_by(100_000)
        .map(|at| body.slice(at..(at + 100_000).min(LARGE)))
        .collect();
    let chunked = Body::wrap_stream(stream::iter(pieces).map(Ok::<_, std::io::Error>));
    for body in [Body::from(body), chunked] {
        let request = door.browser.request(Method::POST, &door.at("/upload"))?;
        let answer = door
            .browser
            .send(request.body(body))
            .await?
            .expect(200)?
            .json()?;
        assert_eq!(answer["bytes"], LARGE);
        assert_eq!(answer["sha256"], expected.as_str());
    }
    let seen = rig.app.seen("/upload");
    assert_eq!(seen[0].header("content-length"), LARGE.to_string());
    assert_eq!(seen[1].header("content-length"), "");
    assert_eq!(seen[1].header("transfer-encoding"), "chunked");
    Ok(())
}

#[tokio::test]
async fn events_arrive_one_by_one() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let request = door.browser.request(Method::GET, &door.at("/events/20"))?;
    let mut response = request.header("accept", "text/event-stream").send().await?;
    ensure!(response.status() == 200, "{}", response.status());
    for number in 0..20 {
        // The app sends an event only now; it must come through before the next is let go.
        rig.app.release(1);
        let event = response.chunk().await?.context("the stream ended")?;
        assert_eq!(event, format!("data: event {number}\n\n"));
    }
    assert_eq!(response.chunk().await?, None);
    Ok(())
}

#[tokio::test]
async fn an_upload_reaches_the_app_while_it_is_sent() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let (told, mut told_by_app) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    let app = OneShotApp::start(|mut app: Connection| async move {
        app.read_head().await?;
        for _ in 0..3 {
            told.send(app.read_exactly(4).await?).await?;
        }
        app.write_head(&["HTTP/1.1 204 No Content"]).await
    })
    .await?;
    let door = rig.open_order(&Order::http("by-hand", app.address)).await?;
    let mut client = Connection::open(door.address()?).await?;
    let host = format!("Host: {}", door.host());
    let cookie = format!("Cookie: {}", door.cookie());
    client
        .write_head(&["PUT /slow HTTP/1.1", &host, &cookie, "Content-Length: 12"])
        .await?;
    for piece in ["one.", "two.", "end."] {
        client.write(piece).await?;
        let heard = told_by_app.recv().await.context("the app is gone")?;
        assert_eq!(heard, piece.as_bytes());
    }
    assert_eq!(client.read_head().await?.status(), "204");
    app.outcome().await
}

#[tokio::test]
async fn an_answer_of_known_length_is_not_held_back() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let (let_go, mut may_go) = tokio::sync::mpsc::channel::<&'static str>(1);
    let app = OneShotApp::start(|mut app: Connection| async move {
        app.read_head().await?;
        app.write_head(&["HTTP/1.1 200 OK", "Content-Length: 12"])
            .await?;
        while let Some(piece) = may_go.recv().await {
            app.write(piece).await?;
        }
        Ok(())
    })
    .await?;
    let door = rig.open_order(&Order::http("by-hand", app.address)).await?;
    let mut client = Connection::open(door.address()?).await?;
    let host = format!("Host: {}", door.host());
    let cookie = format!("Cookie: {}", door.cookie());
    client
        .write_head(&["GET /slow HTTP/1.1", &host, &cookie])
        .await?;
    assert_eq!(client.read_head().await?.status(), "200");
    for piece in ["one.", "two.", "end."] {
        let_go.send(piece).await?;
        assert_eq!(client.read_exactly(4).await?, piece.as_bytes());
    }
    drop(let_go);
    app.outcome().await
}

#[tokio::test]
async fn an_answer_may_begin_before_the_upload_ends() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let app = OneShotApp::start(|mut app: Connection| async move {
        app.read_head().await?;
        app.write_head(&["HTTP/1.1 200 OK", "Content-Length: 8"])
            .await?;
        app.write("half").await?;
        let rest = app.read_exactly(4).await?;
        app.write(rest).await
    })
    .await?;
    let door = rig.open_order(&Order::http("by-hand", app.address)).await?;
    let mut client = Connection::open(door.address()?).await?;
    let host = format!("Host: {}", door.host());
    let cookie = format!("Cookie: {}", door.cookie());
    client
        .write_head(&["POST /talk HTTP/1.1", &host, &cookie, "Content-Length: 4"])
        .await?;
    assert_eq!(client.read_head().await?.status(), "200");
    assert_eq!(client.read_exactly(4).await?, b"half");
    client.write("rest").await?;
    assert_eq!(client.read_exactly(4).await?, b"rest");
    app.outcome().await
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_apps_work() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let app = OneShotApp::start(|mut app: Connection| async move {
        app.read_head().await?;
        app.write_head(&["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"])
            .await?;
        app.write("5\r\nfirst\r\n").await?;
        app.closed().await
    })
    .await?;
    let door = rig.open_order(&Order::http("by-hand", app.address)).await?;
    let request = door.browser.request(Method::GET, &door.at("/endless"))?;
    let mut response = request.send().await?;
    assert_eq!(response.chunk().await?.as_deref(), Some(&b"first"[..]));
    drop(response);
    app.outcome().await
}

#[tokio::test]
async fn a_body_cut_short_is_not_passed_off_as_whole() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let app = OneShotApp::start(|mut app: Connection| async move {
        app.read_head().await?;
        app.write_head(&["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"])
            .await?;
        app.write("5\r\nfirst\r\n").await?;
        app.reset()
    })
    .await?;
    let door = rig.open_order(&Order::http("by-hand", app.address)).await?;
    let request = door.browser.request(Method::GET, &door.at("/cut"))?;
    let cut = request.send().await?.bytes().await;
    ensure!(cut.is_err(), "the client takes it for whole: {cut:?}");
    app.outcome().await
}

#[tokio::test]
async fn a_head_request_and_a_204_have_no_body() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let request = door
        .browser
        .request(Method::HEAD, &door.at("/download/1000"))?;
    let head = door.browser.send(request).await?.expect(200)?;
    assert_eq!(head.header("content-length"), "1000");
    assert_eq!(head.body.len(), 0);
    let empty = door.get("/status/204").await?.expect(204)?;
    assert_eq!(empty.body.len(), 0);
    door.get("/status/304").await?.expect(304)?;
    // The connection is still in step.
    assert_eq!(door.get("/hello").await?.text(), "hello from the app");
    Ok(())
}
