//! Clients that go away in the middle of everything: no route is blamed for it, and nothing is left
//! behind. With `PATCHBAY_FULL=1` 10,000 of them do.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use patchbay_tests::eventually::eventually;
use patchbay_tests::raw::Connection;
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::scale::{allow_sockets, descriptors, resident, sized};
use reqwest::Method;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Clients at once.
const AT_ONCE: usize = 25;
/// What the worker may keep of thousands that are gone.
const KEPT: u64 = 8 << 20;

/// What a client has done before it goes.
const DEEDS: [&str; 6] = [
    "GET /never HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /download/1000000 HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nhalf",
    "POST /upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "GET /ws/echo HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "GET /hel",
];

async fn come_and_go(address: SocketAddr, number: usize) -> Result<()> {
    let deed = DEEDS[number % DEEDS.len()];
    let mut client = Connection::open(address).await?;
    client.write(deed).await?;
    if deed.contains("/download") || deed.contains("/ws/") {
        client.read_head().await?;
    }
    // Every other one breaks off, the others just close.
    if number.is_multiple_of(2) {
        client.reset()?;
    }
    Ok(())
}

async fn all_go(address: SocketAddr, count: usize) -> Result<()> {
    for first in (0..count).step_by(AT_ONCE) {
        let batch = (first..first + AT_ONCE).map(|number| come_and_go(address, number));
        futures_util::future::try_join_all(batch).await?;
    }
    Ok(())
}

async fn public(rig: &Rig) -> Result<Door> {
    let order = rig.order("app").with("open_to_public", "true");
    rig.open_order(&order).await
}

/// Waits until the worker has no more descriptors than this.
async fn settles(pid: u32, most: usize) -> Result<usize> {
    eventually(
        "descriptors are given back",
        Duration::from_secs(20),
        async || {
            let open = descriptors(pid)?;
            ensure!(open <= most, "{open} descriptors instead of {most}");
            Ok(open)
        },
    )
    .await
}

#[tokio::test]
async fn thousands_of_them() -> Result<()> {
    let count = sized(1_200, 10_000);
    let rig = Rig::start(Parts::embedded()).await?;
    let door = public(&rig).await?;
    let address = door.address()?;
    let pid = rig.worker.program.pid()?;
    let idle = descriptors(pid)?;
    all_go(address, count / 2).await?;
    // Idle connections to the app may be kept.
    let half = settles(pid, idle + 40).await?;
    let memory = resident(pid)?;
    all_go(address, count / 2).await?;
    let whole = settles(pid, half + 20).await?;
    let more = resident(pid)?.saturating_sub(memory);
    crate::report_figure(format_args!(
        "after {count} clients that went away: {whole} descriptors ({idle} before), {more} bytes more \
         than after half of them"
    ));
    ensure!(more < KEPT, "{more} bytes are kept");
    // Nobody blames the app.
    door.get("/hello").await?.expect(200)?;
    let log = rig.worker.program.log();
    let blamed = log.lines().find(|line| line.contains("out of service"));
    ensure!(blamed.is_none(), "{blamed:?}");
    Ok(())
}

#[tokio::test]
async fn from_a_long_poll_a_thousand_times() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = public(&rig).await?;
    let address = door.address()?;
    for first in (0..1_000).step_by(AT_ONCE) {
        let batch = (first..first + AT_ONCE).map(|number| async move {
            let mut client = Connection::open(address).await?;
            client
                .write_head(&["GET /never HTTP/1.1", "Host: h"])
                .await?;
            if number % 2 == 0 {
                client.reset()?;
            }
            anyhow::Ok(())
        });
        futures_util::future::try_join_all(batch).await?;
        door.get("/hello").await?.expect(200)?;
    }
    Ok(())
}

#[tokio::test]
async fn and_a_thousand_streams_are_carried_at_once() -> Result<()> {
    const STREAMS: usize = 1_000;
    allow_sockets(6 * STREAMS as u64)?;
    let rig = Rig::start(Parts::embedded()).await?;
    let door = public(&rig).await?;
    let mut streams = Vec::new();
    while streams.len() < STREAMS {
        let url = door.at("/events/2");
        let opened = (0..AT_ONCE).map(|_| async {
            let request = door.browser.request(Method::GET, &url)?;
            anyhow::Ok(request.send().await?)
        });
        // The head of such an answer comes before its first event.
        streams.extend(futures_util::future::try_join_all(opened).await?);
    }
    door.get("/hello").await?.expect(200)?;
    rig.app.release(2 * STREAMS);
    for stream in streams {
        ensure!(stream.status() == 200, "{}", stream.status());
        let text = stream.text().await?;
        ensure!(text == "data: event 0\n\ndata: event 1\n\n", "{text}");
    }
    // A client that leaves one in the middle takes nothing along.
    let mut client = TcpStream::connect(door.address()?).await?;
    tokio::io::AsyncWriteExt::write_all(&mut client, b"GET /events/2 HTTP/1.1\r\nHost: h\r\n\r\n")
        .await?;
    client.read_exact(&mut [0; 12]).await?;
    drop(client);
    door.get("/hello").await?.expect(200)?;
    Ok(())
}
