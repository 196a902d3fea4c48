//! People leave circuits behind; their ports come back.

use std::time::Duration;

use anyhow::{Result, ensure};
use patchbay_tests::eventually::eventually;
use patchbay_tests::rig::{Parts, Rig};

/// The first round comes after 5 s, the next 10 s later; then a machine with much to do.
const TWO_ROUNDS: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_idle_one_goes_and_the_used_one_stays() -> Result<()> {
    the_idle_one_goes(Parts::servers()).await
}

#[tokio::test]
async fn without_redis_the_worker_tells_what_is_used() -> Result<()> {
    the_idle_one_goes(Parts::embedded()).await
}

async fn the_idle_one_goes(parts: Parts) -> Result<()> {
    let mut rig = Rig::start(parts.ports(2)).await?;
    let section = "[proxy_coordinator]\n";
    let file = std::fs::read_to_string(&rig.coordinator.config)?;
    let hurried = format!("{section}unused_circuit_collection_timeout = \"2s\"\n");
    std::fs::write(&rig.coordinator.config, file.replace(section, &hurried))?;
    rig.coordinator.program.kill().await?;
    rig.coordinator.start_again().await?;

    let used = rig.open("used").await?;
    let idle = rig.open("idle").await?;
    idle.get("/hello").await?.expect(200)?;
    let full = rig.opener.open(&rig.order("third")).await;
    ensure!(full.is_err(), "two ports gave three circuits");

    eventually("the idle circuit is gone", TWO_ROUNDS, async || {
        used.get("/hello").await?.expect(200)?;
        let held = rig.opener.circuit(idle.circuit).await;
        ensure!(held.is_err(), "still there");
        Ok(())
    })
    .await?;
    let idle_id = idle.circuit.to_string();
    let words = ["idle circuit closed", idle_id.as_str(), "idle_seconds"];
    rig.coordinator.program.logged(&words).await?;

    used.get("/hello").await?.expect(200)?;
    rig.opener.circuit(used.circuit).await?;
    let path = format!("/api/circuit/{}/statistics", used.circuit);
    let statistics = rig.opener.read(&path).await?;
    ensure!(statistics["requests"].as_u64() > Some(2), "{statistics}");
    let next = rig.open("next").await?;
    ensure!(next.url == idle.url, "{} is free again", idle.url);
    next.get("/hello").await?.expect(200)?;
    Ok(())
}
