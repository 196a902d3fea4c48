//! PostgreSQL is restarted, as an upgrade of it does. Traffic does not notice, openings wait, and no
//! worker is taken for lost because nobody could write down that it lives.

use std::time::Duration;

use anyhow::{Result, ensure};
use patchbay_tests::consistency::ensure_agreement;
use patchbay_tests::eventually::eventually;
use patchbay_tests::load::{Load, Target};
use patchbay_tests::postgres::PrivateServer;
use patchbay_tests::rig::{Parts, Rig};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_longer_than_a_worker_may_be_silent() -> Result<()> {
    let mut server = PrivateServer::start().await?;
    let database = server.database().await?;
    let mut rig = Rig::start_in(Parts::servers().ports(16), database.clone()).await?;
    rig.coordinator
        .start_with("worker_heartbeat_timeout = 3.0")
        .await?;
    let mut targets = Vec::new();
    for number in 0..4 {
        let order = rig
            .order(&format!("app-{number}"))
            .with("open_to_public", true);
        let door = rig.open_order(&order).await?;
        targets.push(Target {
            cookie: String::new(),
            ..door.target()
        });
    }
    let load = Load::start(targets, 200)?;
    for _ in 0..2 {
        server.stop().await?;
        let refused = rig.opener.open(&rig.order("meanwhile")).await;
        ensure!(refused.is_err(), "an opening without a database");
        // 5 s of traffic: the worker's heartbeats fail for longer than it may be silent.
        load.answers(1_000).await?;
        server.start_again().await?;
        rig.changes_take_effect("after a restart of the database")
            .await?;
        // The verdict that would come too early would come within the next second.
        load.answers(400).await?;
        let workers = rig.opener.read("/workers").await?;
        ensure!(workers["workers"][0]["status"] == "ALIVE", "{workers}");
    }
    load.finish().await?.ensure_faultless()?;
    ensure!(
        !rig.coordinator.program.log().contains("worker lost"),
        "a worker was lost"
    );
    eventually(
        "everybody says the same",
        Duration::from_secs(10),
        async || ensure_agreement(&database, &rig.worker).await,
    )
    .await
}
