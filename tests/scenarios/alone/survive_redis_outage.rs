//! Redis is cut, emptied, stopped and restarted while people work.

use std::time::Duration;

use anyhow::Result;
use patchbay_tests::eventually::eventually;
use patchbay_tests::load::{Load, Target};
use patchbay_tests::rig::{Door, Parts, Rig};

/// Requests a second through the circuits.
const RATE: u32 = 1_000;
/// Circuits that carry them.
const CIRCUITS: usize = 50;
/// Answers between one blow and the next.
const BETWEEN: usize = 800;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_and_changes_arrive_after_each_blow() -> Result<()> {
    let mut rig = Rig::start(Parts::servers().ports(64)).await?;
    let doors = rig.open_many(CIRCUITS).await?;
    let load = Load::start(
        doors.iter().map(Door::target).collect::<Vec<Target>>(),
        RATE,
    )?;
    load.answers(BETWEEN).await?;

    rig.redis()?.kill_clients().await?;
    rig.changes_take_effect("after CLIENT KILL").await?;
    load.answers(BETWEEN).await?;

    rig.redis()?.command(&["FLUSHALL"]).await?;
    rig.changes_take_effect("after FLUSHALL").await?;
    load.answers(BETWEEN).await?;

    rig.redis()?.restart().await?;
    rig.changes_take_effect("after a restart of Redis").await?;
    load.answers(BETWEEN).await?;

    // Long enough for every pause between two attempts to have grown to its longest.
    rig.redis()?.stop().await?;
    load.answers(5 * BETWEEN).await?;
    eventually(
        "opening works without Redis",
        Duration::from_secs(10),
        async || {
            let door = rig.open("while-redis-is-down").await?;
            door.get("/hello").await?.expect(200)
        },
    )
    .await?;
    rig.redis()?.restart().await?;
    rig.changes_take_effect("after an outage of Redis").await?;
    load.answers(BETWEEN).await?;

    let tally = load.finish().await?;
    crate::report_figure(format_args!(
        "Redis cut, emptied, restarted, stopped: {tally}"
    ));
    tally.ensure_faultless()
}

#[tokio::test]
async fn the_first_opening_after_a_restart_does_not_wait() -> Result<()> {
    let mut rig = Rig::start(Parts::servers()).await?;
    for _ in 0..5 {
        // Nobody has spoken to Redis since its restart when the opening begins.
        rig.redis()?.restart().await?;
        rig.changes_take_effect("after a restart of an idle Redis")
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_event_lost_in_the_gap_is_made_up_for() -> Result<()> {
    let mut rig = Rig::start(Parts::servers()).await?;
    let door = rig.open("jupyter").await?;
    rig.redis()?.stop().await?;
    // The removal cannot be published: nobody is there to carry it.
    rig.opener.close(door.circuit).await?;
    rig.redis()?.restart().await?;
    eventually("the removal arrives", Duration::from_secs(2), async || {
        door.get("/hello").await?.expect(400)
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn both_programs_start_while_redis_is_down() -> Result<()> {
    let mut rig = Rig::start(Parts::servers()).await?;
    let door = rig.open("jupyter").await?;
    rig.redis()?.stop().await?;
    rig.worker.program.kill().await?;
    rig.coordinator.program.kill().await?;
    rig.coordinator.start_again().await?;
    rig.worker.program.start()?;
    eventually("the circuit is back", Duration::from_secs(10), async || {
        door.get("/hello").await?.expect(200)
    })
    .await?;
    rig.redis()?.restart().await?;
    rig.changes_take_effect("after Redis came at last").await
}

#[tokio::test]
async fn a_coordinator_and_a_worker_start_while_it_is_down() -> Result<()> {
    let mut rig = Rig::start(Parts::servers()).await?;
    let door = rig.open("before").await?;
    rig.worker.program.kill().await?;
    rig.coordinator.program.kill().await?;
    rig.redis()?.stop().await?;
    rig.coordinator.start_again().await?;
    rig.worker.start_again().await?;
    door.get("/hello").await?.expect(200)?;
    rig.changes_take_effect("without Redis since the start")
        .await?;
    rig.redis()?.restart().await?;
    // Both take the bus up again, and nothing is told twice or lost.
    rig.changes_take_effect("after Redis came").await?;
    door.get("/hello").await?.expect(200)?;
    Ok(())
}
