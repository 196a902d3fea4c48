//! Memory of the worker for connections on which nothing happens. With `PATCHBAY_FULL=1` there are
//! 5,000 WebSockets and 10,000 kept connections, and the bounds are what is promised of optimised
//! programs; among the tests they only show when an unoptimised one costs more than it did.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use patchbay_tests::eventually::eventually;
use patchbay_tests::raw::Connection;
use patchbay_tests::rig::{Parts, Rig};
use patchbay_tests::scale::{allow_sockets, resident, sized};

/// Connections that are opened at once.
const AT_ONCE: usize = 50;
/// Longest until memory that is not needed has been given back.
const SETTLED: Duration = Duration::from_secs(30);

const UPGRADE: &[&str] = &[
    "GET /ws/echo HTTP/1.1",
    "Host: h",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];
const PAGE: &[&str] = &["GET /hello HTTP/1.1", "Host: h"];

async fn one(address: SocketAddr, head: &[&str], status: &str) -> Result<Connection> {
    let mut client = Connection::open(address).await?;
    client.write_head(head).await?;
    let answer = client.read_head().await?;
    ensure!(answer.status() == status, "{answer:?}");
    if let Some(length) = answer.header("content-length") {
        client.read_exactly(length.parse()?).await?;
    }
    Ok(client)
}

async fn many(
    address: SocketAddr,
    count: usize,
    head: &[&str],
    status: &str,
) -> Result<Vec<Connection>> {
    let mut all = Vec::new();
    while all.len() < count {
        let batch = (0..AT_ONCE).map(|_| one(address, head, status));
        all.extend(futures_util::future::try_join_all(batch).await?);
    }
    Ok(all)
}

/// Opens `count` connections and waits until each costs the worker less than `bound`.
async fn cost(what: &str, count: usize, head: &[&str], status: &str, bound: u64) -> Result<()> {
    // The app has as many, where each connection has one of its own.
    let of_each = if status == "101" { 2 } else { 1 };
    allow_sockets(count as u64 * of_each + 1_000)?;
    let rig = Rig::start(Parts::embedded()).await?;
    let order = rig.order("app").with("open_to_public", "true");
    let address = rig.open_order(&order).await?.address()?;
    let pid = rig.worker.program.pid()?;
    // What the first ones set up, all others share.
    drop(many(address, AT_ONCE * 2, head, status).await?);
    let before = resident(pid)?;
    let held = many(address, count, head, status).await?;
    let count = held.len() as u64;
    let name = format!("{what} costs less than {bound} bytes");
    let each = eventually(&name, SETTLED, async || {
        let each = resident(pid)?.saturating_sub(before) / count;
        ensure!(each < bound, "{each} bytes for each of {count}");
        Ok(each)
    })
    .await?;
    crate::report_figure(format_args!("{each} bytes for each of {count} {what}s"));
    // They are all still there.
    drop(held);
    one(address, PAGE, "200").await?;
    Ok(())
}

#[tokio::test]
async fn a_websocket() -> Result<()> {
    let count = sized(1_000, 5_000);
    let bound = sized(96 << 10, 12 << 10);
    cost("idle WebSocket", count, UPGRADE, "101", bound).await
}

#[tokio::test]
async fn a_kept_connection() -> Result<()> {
    let count = sized(1_000, 10_000);
    // Among the tests no more than a leak is looked for: that many come so fast that all of them
    // work at once, and the allocator may keep what they gave back.
    let bound = sized(96 << 10, 16 << 10);
    cost("idle kept connection", count, PAGE, "200", bound).await
}
