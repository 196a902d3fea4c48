//! Two coordinators over one database and one Redis; one after the other is killed while circuits
//! come and go. Afterwards the store, its events, the audit and the worker say the same.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use patchbay_tests::churn::Churn;
use patchbay_tests::consistency::ensure_agreement;
use patchbay_tests::coordinator::{Coordinator, Store};
use patchbay_tests::eventually::eventually;
use patchbay_tests::opener::Opener;
use patchbay_tests::rig::{Parts, Rig};

/// Clients that open and close at once.
const CLIENTS: usize = 6;
/// Kills of each coordinator.
const KILLS: usize = 3;
/// Openings that have to succeed between two kills.
const BETWEEN: usize = 12;
/// Within this, everything heals: a worker's check of generations comes with its heartbeat.
const HEALED: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_is_half_made() -> Result<()> {
    let mut rig = Rig::start(Parts::servers().ports(200)).await?;
    let redis = rig.redis.as_ref().context("no Redis")?.section();
    let folder = rig.folder.path().to_owned();
    let mut second = Coordinator::start(&folder, "coordinator-2", &rig.store, &redis, "").await?;
    let Store::Postgres(database) = rig.store.clone() else {
        bail!("PostgreSQL is expected");
    };
    let openers = [rig.opener.clone(), Opener::new(&second.url())?];
    let orders = (0..CLIENTS).map(|client| rig.order(&format!("app-{client}")));
    let churn = Churn::start(&openers, orders);
    for kill in 0..2 * KILLS {
        churn.openings(BETWEEN).await?;
        let victim = if kill % 2 == 0 {
            &mut second
        } else {
            &mut rig.coordinator
        };
        victim.program.kill().await?;
        victim.start_again().await?;
    }
    churn.openings(BETWEEN).await?;
    crate::report_figure(format_args!(
        "{} kills of a coordinator, {} openings meanwhile",
        2 * KILLS,
        churn.opened()
    ));
    churn.finish().await;
    eventually("everybody says the same", HEALED, async || {
        ensure_agreement(&database, &rig.worker).await
    })
    .await
}
