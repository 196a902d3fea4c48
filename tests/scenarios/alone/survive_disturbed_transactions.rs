//! PostgreSQL refuses transactions and cuts connections in the middle of them and at their commit,
//! while circuits come and go. Afterwards the store, its events, the audit and the worker say the
//! same.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use patchbay_tests::churn::Churn;
use patchbay_tests::consistency::ensure_agreement;
use patchbay_tests::coordinator::Store;
use patchbay_tests::eventually::eventually;
use patchbay_tests::rig::{Parts, Rig};

/// Clients that open and close at once.
const CLIENTS: usize = 6;
/// Openings that have to succeed under each disturbance.
const OPENINGS: usize = 60;
const HEALED: Duration = Duration::from_secs(15);

/// When the disturbance comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    /// As the event is written, in the middle of the transaction.
    Amid,
    /// As the transaction is committed.
    AtCommit,
}

/// Ends the connection that the transaction is on.
const CUT: &str = "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10);";
const REFUSE: &str = "RAISE EXCEPTION 'in the way' USING ERRCODE = '40001';";
const DEADLOCK: &str = "RAISE EXCEPTION 'in the way' USING ERRCODE = '40P01';";

/// Disturbs every `nth` transaction that writes an event; a sequence does not go back with them.
fn disturb(deed: &str, when: When, nth: u32) -> String {
    let trigger = match when {
        When::Amid => "CREATE TRIGGER disturb BEFORE INSERT ON patchbay_events",
        When::AtCommit => {
            "CREATE CONSTRAINT TRIGGER disturb AFTER INSERT ON patchbay_events \
             DEFERRABLE INITIALLY DEFERRED"
        }
    };
    format!(
        "DROP TRIGGER IF EXISTS disturb ON patchbay_events; \
         DROP SEQUENCE IF EXISTS disturbances; CREATE SEQUENCE disturbances; \
         CREATE OR REPLACE FUNCTION disturb() RETURNS trigger AS $$ BEGIN \
         IF nextval('disturbances') % {nth} = 0 THEN {deed} END IF; RETURN NEW; \
         END $$ LANGUAGE plpgsql; {trigger} FOR EACH ROW EXECUTE FUNCTION disturb()"
    )
}

async fn still_agreed(deed: &str, when: When, nth: u32) -> Result<()> {
    let rig = Rig::start(Parts::servers().ports(200)).await?;
    let Store::Postgres(database) = rig.store.clone() else {
        bail!("PostgreSQL is expected");
    };
    let client = database.connect().await?;
    client.batch_execute(&disturb(deed, when, nth)).await?;
    let orders = (0..CLIENTS).map(|client| rig.order(&format!("app-{client}")));
    let churn = Churn::start(std::slice::from_ref(&rig.opener), orders);
    churn.openings(OPENINGS).await?;
    let (opened, failed) = (churn.opened(), churn.failed());
    churn.finish().await;
    let count = "SELECT last_value FROM disturbances";
    let events: i64 = client.query_one(count, &[]).await?.get(0);
    let disturbances = events / i64::from(nth);
    crate::report_figure(format_args!(
        "{disturbances} transactions disturbed {when:?}, {opened} openings, {failed} calls failed"
    ));
    ensure!(disturbances >= 5, "only {disturbances} disturbances");
    // What became of a commit that was cut off cannot be known, so that one is told as a failure.
    if deed != CUT || when == When::Amid {
        ensure!(failed == 0, "{failed} calls failed");
    }
    client
        .batch_execute("DROP TRIGGER disturb ON patchbay_events")
        .await?;
    eventually("everybody says the same", HEALED, async || {
        ensure_agreement(&database, &rig.worker).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_within() -> Result<()> {
    still_agreed(CUT, When::Amid, 9).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_at_the_commit() -> Result<()> {
    still_agreed(CUT, When::AtCommit, 9).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serialization_failures() -> Result<()> {
    still_agreed(REFUSE, When::Amid, 3).await?;
    still_agreed(REFUSE, When::AtCommit, 3).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks() -> Result<()> {
    still_agreed(DEADLOCK, When::Amid, 4).await
}
