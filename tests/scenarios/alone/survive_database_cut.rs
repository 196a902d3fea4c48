//! The database drops every session it has; traffic does not notice, and openings go on.

use anyhow::{Result, bail};
use patchbay_tests::coordinator::Store;
use patchbay_tests::load::Load;
use patchbay_tests::rig::{Door, Parts, Rig};

/// Ends every session of the database but the one that says so.
const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn again_and_again() -> Result<()> {
    let rig = Rig::start(Parts::servers().ports(32)).await?;
    let Store::Postgres(database) = &rig.store else {
        bail!("PostgreSQL is expected");
    };
    let session = database.connect().await?;
    let doors = rig.open_many(10).await?;
    let load = Load::start(doors.iter().map(Door::target).collect(), 500)?;
    for _ in 0..5 {
        session.batch_execute(CUT).await?;
        rig.changes_take_effect("after a cut of the database")
            .await?;
    }
    load.answers(500).await?;
    load.finish().await?.ensure_faultless()
}
