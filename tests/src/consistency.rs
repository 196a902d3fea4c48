//! Whether everybody says the same: the rows of the store, the events that were logged, the counters,
//! the audit, and what the worker really serves.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use patchbay_common::event::{Change, CircuitEvent};

use crate::browser::Browser;
use crate::postgres::Database;
use crate::worker::Worker;

/// Circuits by key, with their ports.
type Circuits = BTreeMap<String, u16>;

/// Compares what the database says of its one worker, and what that worker serves. The circuits
/// have to be open to the public and lead to an app that answers `/hello`; no event may have been
/// forgotten.
///
/// # Errors
/// Who disagrees with whom.
pub async fn ensure_agreement(database: &Database, worker: &Worker) -> anyhow::Result<()> {
    let client = database.connect().await?;
    let rows = client
        .query("SELECT id::text, port FROM circuits", &[])
        .await?;
    let held: Circuits = rows
        .iter()
        .map(|row| Ok((row.get(0), u16::try_from(row.get::<_, i32>(1))?)))
        .collect::<anyhow::Result<_>>()?;
    let row = client
        .query_one(
            "SELECT w.occupied_slots::bigint, g.generation, g.acknowledged, \
             (SELECT count(*) FROM patchbay_events WHERE published_at IS NULL), \
             (SELECT count(*) FROM patchbay_audit WHERE action = 'opened'), \
             (SELECT count(*) FROM patchbay_audit WHERE action = 'closed') \
             FROM workers w JOIN patchbay_generations g ON g.worker = w.id",
            &[],
        )
        .await?;
    let number = |column| row.get::<_, i64>(column);
    let count = i64::try_from(held.len())?;
    ensure!(
        number(0) == count,
        "{} slots occupied by {count}",
        number(0)
    );
    ensure!(number(3) == 0, "{} events were not published", number(3));
    let (opened, closed) = (number(4), number(5));
    ensure!(
        opened - closed == count,
        "audit: {opened} opened, {closed} closed, {count} there"
    );

    let (told, changes) = added_up(&client).await?;
    ensure!(
        told == held,
        "the events add up to {told:?}, the store has {held:?}"
    );
    ensure!(
        changes == number(1),
        "{changes} events, generation {}",
        number(1)
    );
    ensure!(
        changes == opened + closed,
        "{changes} events, {} rows of the audit",
        opened + closed
    );
    served(worker, &held).await
}

/// What the logged events add up to, and how many there are.
async fn added_up(client: &tokio_postgres::Client) -> anyhow::Result<(Circuits, i64)> {
    let rows = client
        .query(
            "SELECT generation, name, body FROM patchbay_events ORDER BY generation",
            &[],
        )
        .await?;
    let mut circuits = Circuits::new();
    for (row, expected) in rows.iter().zip(1_i64..) {
        let generation: i64 = row.get(0);
        ensure!(
            generation == expected,
            "generation {generation} follows {}",
            expected - 1
        );
        let event = CircuitEvent::from_body(row.get(1), row.get(2))?;
        match event.context("an unknown event")?.change {
            Change::Created(new) => {
                for circuit in new {
                    let port = circuit.port.context("no port")?;
                    let before = circuits.insert(circuit.id.to_string(), port);
                    ensure!(before.is_none(), "{} was created twice", circuit.id);
                }
            }
            Change::Removed(gone) => {
                for circuit in gone {
                    let there = circuits.remove(&circuit.id.to_string());
                    ensure!(there.is_some(), "{} was removed twice", circuit.id);
                }
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
    Ok((circuits, i64::try_from(rows.len())?))
}

/// Whether the worker serves these circuits and no others.
async fn served(worker: &Worker, held: &Circuits) -> anyhow::Result<()> {
    let browser = Browser::new()?;
    for port in worker.slots.first()..=worker.slots.last() {
        let url = format!("http://127.0.0.1:{port}/hello");
        let expected = if held.values().any(|used| *used == port) {
            200
        } else {
            400
        };
        browser.get(&url).await?.expect(expected)?;
    }
    Ok(())
}
