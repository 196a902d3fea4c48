//! A program told to stop finishes what it has begun, and then goes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt as _;
use patchbay_tests::browser::Browser;
use patchbay_tests::eventually::eventually;
use patchbay_tests::program::Signal;
use patchbay_tests::rig::{Door, Parts, Rig};
use reqwest::{Method, Response};
use tokio::net::TcpStream;

/// A moment after which nothing "at once" may still be to come.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Begins a download of `count` pieces and reads the first.
async fn begin_download(rig: &Rig, door: &Door, count: usize) -> Result<Response> {
    rig.app.release(1);
    let url = door.at(&format!("/pieces/{count}"));
    let request = door.browser.request(Method::GET, &url)?;
    let mut response = request.send().await?;
    let first = response.chunk().await?.context("no first piece")?;
    ensure!(first == "piece 0\n", "{first:?}");
    Ok(response)
}

async fn is_closed(address: std::net::SocketAddr) -> Result<()> {
    eventually(
        "no new connection is taken",
        Duration::from_secs(5),
        async || {
            ensure!(TcpStream::connect(address).await.is_err(), "one is taken");
            Ok(())
        },
    )
    .await
}

async fn the_worker_ends_a_download(signal: Signal) -> Result<()> {
    let mut rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let download = begin_download(&rig, &door, 10).await?;

    rig.worker.program.signal(signal).await?;
    is_closed(door.address()?).await?;
    rig.worker.program.ensure_running()?;

    rig.app.release(9);
    let rest = download.text().await?;
    let expected: String = (1..10).map(|number| format!("piece {number}\n")).collect();
    assert_eq!(rest, expected);
    let status = rig.worker.program.exited(AT_ONCE).await?;
    assert_eq!(status.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_worker_ends_a_download_after_sigterm() -> Result<()> {
    the_worker_ends_a_download(Signal::Term).await
}

#[tokio::test]
async fn a_worker_ends_a_download_after_sigint() -> Result<()> {
    the_worker_ends_a_download(Signal::Int).await
}

#[tokio::test]
async fn a_worker_with_nothing_to_do_goes_at_once() -> Result<()> {
    let mut rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    // The browser keeps its connection for the next request: that is no work.
    door.get("/hello").await?.expect(200)?;
    rig.worker.program.stop(AT_ONCE).await?;
    rig.coordinator.program.stop(AT_ONCE).await
}

#[tokio::test]
async fn a_worker_does_not_wait_longer_than_its_grace() -> Result<()> {
    let parts = Parts::embedded().worker("[server]\ngrace_period = 1\n");
    let mut rig = Rig::start(parts).await?;
    let door = rig.open("jupyter").await?;
    let _held = begin_download(&rig, &door, 2).await?;
    let begin = Instant::now();
    rig.worker.program.signal(Signal::Term).await?;
    let status = rig.worker.program.exited(Duration::from_secs(4)).await?;
    assert_eq!(status.code(), Some(0));
    ensure!(
        begin.elapsed() >= Duration::from_secs(1),
        "the grace was cut short"
    );
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_a_worker_at_once() -> Result<()> {
    let mut rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let _held = begin_download(&rig, &door, 2).await?;
    rig.worker.program.signal(Signal::Term).await?;
    is_closed(door.address()?).await?;
    rig.worker.program.signal(Signal::Term).await?;
    let status = rig.worker.program.exited(AT_ONCE).await?;
    ensure!(
        status.code().is_some(),
        "it did not end by itself: {status}"
    );
    Ok(())
}

#[tokio::test]
async fn a_stopping_worker_lets_websockets_end() -> Result<()> {
    let mut rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let (mut socket, _) = patchbay_tests::socket::open(&door, "/ws/echo", &[]).await?;
    rig.worker.program.signal(Signal::Term).await?;
    is_closed(door.address()?).await?;
    futures_util::SinkExt::send(&mut socket, "still here?".into()).await?;
    let echoed = patchbay_tests::socket::next(&mut socket).await?;
    assert_eq!(echoed.to_text()?, "still here?");
    socket.close(None).await?;
    while let Some(Ok(_)) = socket.next().await {}
    drop(socket);
    let status = rig.worker.program.exited(AT_ONCE).await?;
    assert_eq!(status.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_coordinator_ends_an_opening() -> Result<()> {
    let mut rig = Rig::start(Parts::servers()).await?;
    let order = rig.order("jupyter");
    let token = rig.opener.conf(&order).await?;

    // The worker is frozen, so the opening waits for its acknowledgement.
    let redis = rig.redis.as_ref().context("no Redis")?;
    let mut events = redis.listen().await?;
    rig.worker.program.signal(Signal::Stop).await?;
    let opener = rig.opener.clone();
    let (waiting, waiting_token) = (order.clone(), token.clone());
    let opening = tokio::spawn(async move { opener.auth(&waiting, &waiting_token).await });
    events.next(|_| true).await?;

    rig.coordinator.program.signal(Signal::Term).await?;
    is_closed(([127, 0, 0, 1], rig.coordinator.port()).into()).await?;
    rig.coordinator.program.ensure_running()?;
    rig.worker.program.signal(Signal::Continue).await?;
    let opened = opening.await??;
    let status = rig.coordinator.program.exited(AT_ONCE).await?;
    assert_eq!(status.code(), Some(0));

    // What was opened in the last moment is there, and known after a restart.
    rig.coordinator.start_again().await?;
    let url = patchbay_tests::rig::enter(&Browser::new()?, &opened).await;
    let Ok(url) = url else { bail!("{url:?}") };
    let cookie = Browser::new()?;
    cookie.get(&format!("{url}/hello")).await?.expect(401)?;
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_a_coordinator_at_once() -> Result<()> {
    let mut rig = Rig::start(Parts::servers()).await?;
    let order = rig.order("jupyter");
    let token = rig.opener.conf(&order).await?;
    let mut events = rig.redis.as_ref().context("no Redis")?.listen().await?;
    rig.worker.program.signal(Signal::Stop).await?;
    let opener = rig.opener.clone();
    let opening = tokio::spawn(async move { opener.auth(&order, &token).await });
    events.next(|_| true).await?;
    rig.coordinator.program.signal(Signal::Term).await?;
    is_closed(([127, 0, 0, 1], rig.coordinator.port()).into()).await?;
    rig.coordinator.program.signal(Signal::Term).await?;
    let status = rig.coordinator.program.exited(AT_ONCE).await?;
    ensure!(
        status.code().is_some(),
        "it did not end by itself: {status}"
    );
    ensure!(opening.await?.is_err(), "the opening was answered");
    Ok(())
}
