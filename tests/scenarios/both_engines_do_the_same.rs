//! Whatever a client sends and an app answers, it is the same by either engine; what the lane
//! leaves to the other engine included.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use patchbay_tests::differential::{self, Side};
use patchbay_tests::opener::Order;
use patchbay_tests::rig::{Parts, Rig};
use tokio::task::JoinSet;

/// Cases without `PATCHBAY_FUZZ_CASES`, and the seed without `PATCHBAY_FUZZ_SEED`.
const CASES: usize = 600;
const SEED: u64 = 20_261_121;
/// Clients at once.
const CLIENTS: usize = 6;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

async fn side(rig: &Rig, number: usize) -> Result<Side> {
    differential::side(async |app: SocketAddr| {
        let order = Order::http(&format!("fuzz-{number}"), app).with("open_to_public", "True");
        rig.open_order(&order).await?.address()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_requests_whole_odd_and_broken() -> Result<()> {
    let cases = setting("PATCHBAY_FUZZ_CASES").map_or(CASES, |cases| cases as usize);
    let seed = setting("PATCHBAY_FUZZ_SEED").unwrap_or(SEED);
    let lane = Arc::new(Rig::start(Parts::embedded().fast_lane(true)).await?);
    let other = Arc::new(Rig::start(Parts::embedded().fast_lane(false)).await?);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (one, two) = (side(&lane, number).await?, side(&other, number).await?);
        clients.spawn(async move {
            let seed = seed.wrapping_add((number as u64) << 52);
            differential::compare(&one, &two, seed, cases / CLIENTS).await
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let asked = reqwest::get(format!("{}/metrics", lane.worker.url())).await?;
    let metrics = asked.text().await?;
    let by_lane = "patchbay_engine_requests_total{engine=\"lane\"} 0";
    anyhow::ensure!(!metrics.contains(by_lane), "no request took the lane");
    crate::report_figure(format_args!(
        "{cases} cases, seed {seed}: the same by both engines"
    ));
    Ok(())
}
