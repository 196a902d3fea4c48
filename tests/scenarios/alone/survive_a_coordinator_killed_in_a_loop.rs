//! Two coordinators over one database and one Redis; one after the other is killed while circuits
//! come and go. Afterwards the store, its events, the audit and the worker say the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use patchbay_tests::consistency::ensure_agreement;
use patchbay_tests::coordinator::{Coordinator, Store};
use patchbay_tests::eventually::eventually;
use patchbay_tests::opener::{Opener, Order};
use patchbay_tests::rig::{Parts, Rig};
use tokio::task::JoinSet;

/// Clients that open and close at once.
const CLIENTS: usize = 6;
/// Kills of each coordinator.
const KILLS: usize = 3;
/// Openings that have to succeed between two kills.
const BETWEEN: usize = 12;
/// Within this, everything heals: a worker's check of generations comes with its heartbeat.
const HEALED: Duration = Duration::from_secs(15);

/// Opens and closes until told to stop; what fails is tried again with the other coordinator.
async fn churn(openers: [Opener; 2], order: Order, stop: Arc<AtomicBool>, done: Arc<AtomicUsize>) {
    let mut turn = 0_usize;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let opener = &openers[turn % 2];
        let mut order = order.clone();
        order.app = format!("{}-{turn}", order.app);
        let Ok(Ok(opened)) =
            tokio::time::timeout(Duration::from_secs(20), opener.open(&order)).await
        else {
            tokio::task::yield_now().await;
            continue;
        };
        done.fetch_add(1, Ordering::Relaxed);
        // Every third stays open; whether a closing that fails was committed, only the store knows.
        if !turn.is_multiple_of(3) {
            let _ = openers[(turn + 1) % 2].close(opened.circuit).await;
        }
    }
}

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
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let order = rig.order(&format!("app-{client}"));
        let order = order.with("open_to_public", true).with("no_reuse", true);
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        clients.spawn(churn(openers.clone(), order, stop, done));
    }
    let progress = async |at_least: usize| {
        eventually(
            "circuits come and go",
            Duration::from_secs(30),
            async || {
                ensure!(done.load(Ordering::Relaxed) >= at_least, "too few");
                Ok(())
            },
        )
        .await
    };
    for kill in 0..2 * KILLS {
        progress(done.load(Ordering::Relaxed) + BETWEEN).await?;
        let victim = if kill % 2 == 0 {
            &mut second
        } else {
            &mut rig.coordinator
        };
        victim.program.kill().await?;
        victim.start_again().await?;
    }
    progress(done.load(Ordering::Relaxed) + BETWEEN).await?;
    stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    crate::report_figure(format_args!(
        "{} kills of a coordinator, {} openings meanwhile",
        2 * KILLS,
        done.load(Ordering::Relaxed)
    ));
    eventually("everybody says the same", HEALED, async || {
        ensure_agreement(&database, &rig.worker).await
    })
    .await
}
