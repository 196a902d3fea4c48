//! The coordinator dies; who is inside stays inside.

use anyhow::Result;
use patchbay_tests::load::Load;
use patchbay_tests::rig::{Door, Parts, Rig};

/// Requests a second through the circuits.
const RATE: u32 = 1_000;
/// Circuits that carry them.
const CIRCUITS: usize = 50;

async fn traffic_goes_on(parts: Parts, what: &str) -> Result<()> {
    let mut rig = Rig::start(parts.ports(64)).await?;
    let doors = rig.open_many(CIRCUITS).await?;
    let load = Load::start(doors.iter().map(Door::target).collect(), RATE)?;
    load.answers(500).await?;

    rig.coordinator.program.kill().await?;
    load.answers(3_000).await?;
    // A new browser cannot be let in now; who is in must not notice.
    assert_eq!(load.failed(), 0);

    rig.coordinator.start_again().await?;
    rig.changes_take_effect("after the coordinator's return")
        .await?;
    load.answers(1_000).await?;

    let tally = load.finish().await?;
    crate::report_figure(format_args!("coordinator killed, {what}: {tally}"));
    tally.ensure_faultless()?;
    for door in &doors {
        door.get("/hello").await?.expect(200)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_sqlite_and_the_stream() -> Result<()> {
    traffic_goes_on(Parts::embedded(), "SQLite and the stream").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_postgres_and_redis() -> Result<()> {
    traffic_goes_on(Parts::servers(), "PostgreSQL and Redis").await
}
