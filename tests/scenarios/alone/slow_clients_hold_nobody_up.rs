//! Clients that send a byte now and then, in heads and in bodies, while others are served as ever.
//! With `PATCHBAY_FULL=1` there are 2,000 of each kind beside 1,000 requests a second.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use patchbay_tests::load::{Load, Tally};
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::scale::{allow_sockets, sized};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Between a slow client's bytes.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends a beginning, and then byte after byte.
async fn trickle(address: SocketAddr, beginning: String, number: usize) -> Result<()> {
    let mut client = TcpStream::connect(address).await?;
    client.write_all(beginning.as_bytes()).await?;
    // Not all at the same instant.
    tokio::time::sleep(PAUSE * (number as u32 % 100) / 100).await;
    loop {
        client.write_all(b"x").await?;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn loaded(door: &Door, rate: u32, answers: usize) -> Result<Tally> {
    let load = Load::start(vec![door.target()], rate)?;
    // What is set up at first is not measured.
    load.answers(answers).await?;
    load.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_bodies_that_trickle_in() -> Result<()> {
    let (slow, rate) = sized((300, 200), (2_000, 1_000));
    let answers = rate as usize * 8;
    allow_sockets(4 * slow as u64 + 2_000)?;
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("app").await?;
    let public = rig.order("slow").with("open_to_public", "true");
    let address = rig.open_order(&public).await?.address()?;
    loaded(&door, rate, answers / 4).await?;
    let quiet = loaded(&door, rate, answers).await?;

    let mut clients = JoinSet::new();
    for number in 0..slow {
        clients.spawn(trickle(address, "GET /slow".into(), number));
        let body = "POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n";
        clients.spawn(trickle(address, body.into(), number));
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let busy = loaded(&door, rate, answers).await?;
    busy.ensure_faultless()?;
    let (before, after) = (quiet.quantile(0.99), busy.quantile(0.99));
    crate::report_figure(format_args!(
        "beside {slow} slow heads and {slow} slow bodies, p99 {after:.2?}; alone {before:.2?}"
    ));
    // As much again, or a time that says more about the machine than about the worker.
    let noise = sized(Duration::from_secs(1), Duration::from_millis(5));
    ensure!(after < (before * 2).max(before + noise), "{after:?}");
    // They were carried, not cut.
    let ended = clients.try_join_next();
    ensure!(ended.is_none(), "a slow client was cut: {ended:?}");
    Ok(())
}
