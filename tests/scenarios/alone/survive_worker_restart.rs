//! A worker goes and comes back; the circuits it held are where they were.

use std::time::Duration;

use anyhow::Result;
use patchbay_tests::eventually::eventually;
use patchbay_tests::rig::{Parts, Rig};

async fn circuits_outlive_a_restart(parts: Parts, violently: bool) -> Result<()> {
    let mut rig = Rig::start(parts).await?;
    let doors = rig.open_many(5).await?;
    let closed = rig.open("closed-meanwhile").await?;

    if violently {
        rig.worker.program.kill().await?;
    } else {
        rig.worker.program.stop(Duration::from_secs(10)).await?;
    }
    rig.opener.close(closed.circuit).await?;
    rig.worker.start_again().await?;

    // Ready means ready: no request after this may fail.
    for door in &doors {
        door.get("/hello").await?.expect(200)?;
    }
    closed.get("/hello").await?.expect(400)?;
    let workers = rig.opener.read("/api/worker").await?;
    assert_eq!(
        workers["workers"].as_array().map(Vec::len),
        Some(1),
        "{workers}"
    );
    assert_eq!(workers["workers"][0]["nodes"], 1, "{workers}");
    assert_eq!(workers["workers"][0]["occupied_slots"], 5, "{workers}");

    let fresh = rig.open("after-the-restart").await?;
    fresh.get("/hello").await?.expect(200)?;
    rig.opener.close(fresh.circuit).await?;
    eventually("closing still works", Duration::from_secs(2), async || {
        fresh.get("/hello").await?.expect(400)
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn stopped_with_sqlite_and_the_stream() -> Result<()> {
    circuits_outlive_a_restart(Parts::embedded(), false).await
}

#[tokio::test]
async fn killed_with_sqlite_and_the_stream() -> Result<()> {
    circuits_outlive_a_restart(Parts::embedded(), true).await
}

#[tokio::test]
async fn stopped_with_postgres_and_redis() -> Result<()> {
    circuits_outlive_a_restart(Parts::servers(), false).await
}

#[tokio::test]
async fn killed_with_postgres_and_redis() -> Result<()> {
    circuits_outlive_a_restart(Parts::servers(), true).await
}

#[tokio::test]
async fn a_worker_waits_for_its_coordinator() -> Result<()> {
    let mut rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    rig.worker.program.kill().await?;
    rig.coordinator.program.kill().await?;
    rig.worker.program.start()?;
    rig.worker.program.logged(&["WARN"]).await?;
    rig.worker.program.ensure_running()?;
    rig.coordinator.start_again().await?;
    eventually("the circuit is back", Duration::from_secs(10), async || {
        door.get("/hello").await?.expect(200)
    })
    .await?;
    Ok(())
}
