//! Giving out slots in SQLite.

use patchbay_common::circuit::{FrontendMode, Slot};
use patchbay_common::worker::Worker;
use rusqlite::{Transaction, params};

use crate::store::error::Doing;
use crate::store::{NewCircuit, Result, SlotWish, StoreError};

const DOING: &str = "looking for a free slot";

/// The slot for a new circuit. The transaction is the only writer, so what is free stays free;
/// the unique indexes hold all the same.
pub(super) fn slot(tx: &Transaction<'_>, new: &NewCircuit, worker: &Worker) -> Result<Slot> {
    let range = match worker.frontend_mode {
        FrontendMode::Port => worker.port_range,
        FrontendMode::Wildcard => None,
    };
    match (&new.slot, range) {
        (SlotWish::AnyPort, Some(range)) => lowest_free_port(tx, worker, range).map(Slot::Port),
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
            refuse_taken(tx, worker, name)?;
            Ok(Slot::Subdomain(name.clone()))
        }
        _ => Err(StoreError::NoSuchWorker(worker.id)),
    }
}

/// The first port of the range, or the first one that follows a taken port.
fn lowest_free_port(tx: &Transaction<'_>, worker: &Worker, range: (u16, u16)) -> Result<u16> {
    let free: Option<u16> = tx
        .prepare_cached(
            "SELECT min(port) FROM ( \
               SELECT ?2 AS port WHERE NOT EXISTS \
                 (SELECT 1 FROM circuits WHERE worker = ?1 AND port = ?2) \
               UNION ALL \
               SELECT * FROM (SELECT c.port + 1 FROM circuits c \
                 WHERE c.worker = ?1 AND c.port >= ?2 AND c.port < ?3 AND NOT EXISTS \
                   (SELECT 1 FROM circuits n WHERE n.worker = ?1 AND n.port = c.port + 1) \
                 ORDER BY c.port LIMIT 1))",
        )
        .and_then(|mut statement| {
            let (first, last) = range;
            statement.query_row(params![worker.id.to_string(), first, last], |row| {
                row.get(0)
            })
        })
        .doing(DOING)?;
    free.ok_or(StoreError::WorkerFull(worker.id))
}

/// Refuses a subdomain that a circuit of any worker of the same domain holds.
fn refuse_taken(tx: &Transaction<'_>, worker: &Worker, name: &str) -> Result<()> {
    let taken: bool = tx
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM circuits c JOIN workers w ON w.id = c.worker \
             WHERE c.subdomain = ?1 AND lower(w.wildcard_domain) = lower(?2))",
        )
        .and_then(|mut statement| {
            statement.query_row(params![name, worker.wildcard_domain], |row| row.get(0))
        })
        .doing(DOING)?;
    if taken {
        return Err(StoreError::SubdomainTaken {
            subdomain: name.to_owned(),
        });
    }
    Ok(())
}
