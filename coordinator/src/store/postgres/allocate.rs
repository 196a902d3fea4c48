//! Giving out slots in PostgreSQL.

use deadpool_postgres::Transaction;
use patchbay_common::circuit::{FrontendMode, Slot};
use patchbay_common::worker::Worker;

use crate::store::error::Doing;
use crate::store::{NewCircuit, Result, SlotWish, StoreError};

const DOING: &str = "looking for a free slot";

/// The slot for a new circuit. The worker's row is locked, so what is free here stays free; the
/// unique indexes hold against everybody else.
pub(super) async fn slot(tx: &Transaction<'_>, new: &NewCircuit, worker: &Worker) -> Result<Slot> {
    let range = match worker.frontend_mode {
        FrontendMode::Port => worker.port_range,
        FrontendMode::Wildcard => None,
    };
    match (&new.slot, range) {
        (SlotWish::AnyPort, Some(range)) => {
            lowest_free_port(tx, worker, range).await.map(Slot::Port)
        }
        (SlotWish::Port(port), Some((first, last))) => {
            if !(first..=last).contains(port) {
                return Err(StoreError::PortTaken {
                    worker: worker.id,
                    port: *port,
                });
            }
            Ok(Slot::Port(*port))
        }
        (SlotWish::Subdomain(name), None) if worker.frontend_mode == FrontendMode::Wildcard => {
            refuse_taken(tx, worker, name).await?;
            Ok(Slot::Subdomain(name.clone()))
        }
        _ => Err(StoreError::NoSuchWorker(worker.id)),
    }
}

/// The first port of the range, or the first one that follows a taken port.
async fn lowest_free_port(
    tx: &Transaction<'_>,
    worker: &Worker,
    (first, last): (u16, u16),
) -> Result<u16> {
    let statement = tx
        .prepare_cached(
            "SELECT min(port) FROM ( \
               SELECT $2::integer AS port WHERE NOT EXISTS \
                 (SELECT 1 FROM circuits WHERE worker = $1 AND port = $2) \
               UNION ALL \
               (SELECT c.port + 1 FROM circuits c \
                 WHERE c.worker = $1 AND c.port >= $2 AND c.port < $3 AND NOT EXISTS \
                   (SELECT 1 FROM circuits n WHERE n.worker = $1 AND n.port = c.port + 1) \
                 ORDER BY c.port LIMIT 1)) AS free",
        )
        .await
        .doing(DOING)?;
    let row = tx
        .query_one(
            &statement,
            &[&worker.id.0, &i32::from(first), &i32::from(last)],
        )
        .await
        .doing(DOING)?;
    let free: Option<i32> = row.get(0);
    free.and_then(|port| u16::try_from(port).ok())
        .ok_or(StoreError::WorkerFull(worker.id))
}

/// Refuses a subdomain that a circuit of any worker of the same domain holds, those of the
/// incumbent's making included.
async fn refuse_taken(tx: &Transaction<'_>, worker: &Worker, name: &str) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM circuits c JOIN workers w ON w.id = c.worker \
             WHERE c.subdomain = $1 AND lower(w.wildcard_domain) = lower($2))",
        )
        .await
        .doing(DOING)?;
    let row = tx
        .query_one(&statement, &[&name, &worker.wildcard_domain])
        .await
        .doing(DOING)?;
    if row.get(0) {
        return Err(StoreError::SubdomainTaken {
            subdomain: name.to_owned(),
        });
    }
    Ok(())
}
