//! Bringing a database to the schema this program knows: an empty one gets the incumbent's schema
//! and our additions, one of the incumbent's making gets our additions, any other is refused.

use refinery::{Migration, Runner};
use tokio_postgres::Client;

use crate::store::error::Doing;
use crate::store::schema::{self, Applied};
use crate::store::{Result, StoreError};

const DOING: &str = "bringing the schema up to date";
/// The incumbent's revision that we know (contract/database.md §1).
const ALEMBIC: &str = "a1b2c3d4e5f6";
/// The tables of that revision.
const TABLES: [&str; 5] = [
    "workers",
    "worker_app_filters",
    "circuits",
    "tokens",
    "endpoints",
];
/// Key of the lock that two coordinators starting at once take turns with.
const LOCK: i64 = 0x7061_7463_6862_6179;

/// What a database holds.
enum Found {
    /// Nothing.
    Empty,
    /// The incumbent's schema, with or without our additions.
    Ours {
        /// Nothing is left to do.
        current: bool,
    },
}

fn known() -> Result<Vec<Migration>> {
    let known = [
        (
            "V1__patchbay",
            include_str!("../../../migrations/postgres/V1__patchbay.sql"),
        ),
        (
            "V2__audit",
            include_str!("../../../migrations/postgres/V2__audit.sql"),
        ),
        (
            "V3__leases",
            include_str!("../../../migrations/postgres/V3__leases.sql"),
        ),
        (
            "V4__route_reports",
            include_str!("../../../migrations/postgres/V4__route_reports.sql"),
        ),
        (
            "V5__token_age",
            include_str!("../../../migrations/postgres/V5__token_age.sql"),
        ),
        (
            "V6__uses",
            include_str!("../../../migrations/postgres/V6__uses.sql"),
        ),
        (
            "V7__revocations",
            include_str!("../../../migrations/postgres/V7__revocations.sql"),
        ),
        (
            "V8__services",
            include_str!("../../../migrations/postgres/V8__services.sql"),
        ),
        (
            "V9__tunnels",
            include_str!("../../../migrations/postgres/V9__tunnels.sql"),
        ),
    ];
    let read = |(name, sql)| Migration::unapplied(name, sql).doing(DOING);
    known.into_iter().map(read).collect()
}

/// Brings the schema up to date. The connection is the caller's to close, and the lock with it.
pub(super) async fn migrate(client: &mut Client) -> Result<()> {
    client
        .execute("SELECT pg_advisory_lock($1)", &[&LOCK])
        .await
        .doing(DOING)?;
    let known = known()?;
    match look(client, &known).await? {
        Found::Ours { current: true } => return Ok(()),
        Found::Ours { current: false } => {}
        Found::Empty => {
            let base = include_str!("../../../migrations/postgres/base.sql");
            let tx = client.transaction().await.doing(DOING)?;
            tx.batch_execute(base).await.doing(DOING)?;
            tx.commit().await.doing(DOING)?;
        }
    }
    let mut runner = Runner::new(&known).set_grouped(true);
    runner.set_migration_table_name(schema::HISTORY);
    runner.run_async(client).await.map(drop).doing(DOING)
}

/// Whether [`migrate`] would accept the database, which is only read.
pub(super) async fn verify(client: &Client) -> Result<()> {
    look(client, &known()?).await.map(drop)
}

async fn look(client: &Client, known: &[Migration]) -> Result<Found> {
    let tables: Vec<String> = client
        .query(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1",
            &[],
        )
        .await
        .doing(DOING)?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let has = |name: &str| tables.iter().any(|table| table == name);
    if tables.is_empty() {
        return Ok(Found::Empty);
    }
    if !has("alembic_version") {
        let shown = tables
            .iter()
            .take(5)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        return Err(foreign(format!("another program's tables ({shown})")));
    }
    let revisions: Vec<String> = client
        .query("SELECT version_num FROM alembic_version", &[])
        .await
        .doing(DOING)?
        .iter()
        .map(|row| row.get(0))
        .collect();
    if revisions != [ALEMBIC] {
        return Err(StoreError::UnknownSchema {
            found: format!("the App Proxy's revision {}", revisions.join(", ")),
            known: ALEMBIC.to_owned(),
            fix: "bring it to that revision with the App Proxy's own migrations, or use a \
                  release of Patchbay that knows it"
                .to_owned(),
        });
    }
    if let Some(missing) = TABLES.iter().find(|table| !has(table)) {
        return Err(foreign(format!(
            "revision {ALEMBIC} without table {missing}"
        )));
    }
    if !has(schema::HISTORY) {
        refuse_doubles(client).await?;
        return Ok(Found::Ours { current: false });
    }
    let applied: Vec<Applied> = client
        .query(schema::READ_HISTORY, &[])
        .await
        .doing(DOING)?
        .iter()
        .map(|row| Applied {
            version: row.get(0),
            name: row.get(1),
            checksum: row.get(2),
        })
        .collect();
    let current = schema::is_current(&applied, known)?;
    Ok(Found::Ours { current })
}

/// Slots are unique from the take-over on; what was given twice before has to be settled by the
/// operator.
async fn refuse_doubles(client: &Client) -> Result<()> {
    let double = client
        .query_opt(
            "SELECT worker::text, coalesce(port::text, subdomain), \
               string_agg(id::text, ', ' ORDER BY created_at) \
             FROM circuits WHERE port IS NOT NULL OR subdomain IS NOT NULL \
             GROUP BY worker, port, subdomain HAVING count(*) > 1 LIMIT 1",
            &[],
        )
        .await
        .doing(DOING)?;
    let Some(double) = double else {
        return Ok(());
    };
    let (worker, slot): (String, String) = (double.get(0), double.get(1));
    let circuits: String = double.get(2);
    Err(StoreError::UnknownSchema {
        found: format!("{ALEMBIC} with slot {slot} of worker {worker} given twice"),
        known: "slots that are given once".to_owned(),
        fix: format!("close all but one of the circuits {circuits}, then start again"),
    })
}

fn foreign(found: String) -> StoreError {
    StoreError::UnknownSchema {
        found,
        known: format!("an empty database, or the App Proxy's at revision {ALEMBIC}"),
        fix: "point [db] name at a database of Patchbay's own or of the App Proxy's".to_owned(),
    }
}
