//! Circuits by session, service and place, and what becomes of them when a session moves or ends,
//! in SQLite.

use patchbay_common::circuit::Circuit;
use patchbay_common::id::{CircuitId, SessionId};
use patchbay_common::timestamp;
use rusqlite::{ToSql, Transaction};

use super::{circuits, endpoints, rows};
use crate::store::error::Doing;
use crate::store::{Cause, CircuitFilter, Ended, Rerouted, Result, stored};

const OWN: &str = "c.id IN (SELECT s.circuit FROM circuit_sessions s WHERE s.session = ?#)";
/// The endpoints' circuits that lead to the session `?#`.
const LEADS_THERE: &str = "(c.endpoint_id IS NOT NULL AND json_valid(c.route_info) \
     AND json_type(c.route_info) = 'array' AND EXISTS (SELECT 1 FROM json_each(c.route_info) r \
     WHERE r.type = 'object' AND json_extract(r.value, '$.session_id') = ?#))";

/// The circuits that match, by key.
pub(super) fn circuits(
    tx: &Transaction<'_>,
    filter: &CircuitFilter,
    limit: usize,
) -> Result<Vec<Circuit>> {
    let session = filter.session.map(|id| id.to_string());
    let worker = filter.worker.map(|id| id.to_string());
    let after = filter.after.map(|id| id.to_string());
    let limit = stored::limit_column(limit);
    let of_session = format!("({OWN} OR {LEADS_THERE})");
    let wanted = [
        (of_session.as_str(), given(&session)),
        ("c.app = ?#", given(&filter.app)),
        ("c.worker = ?#", given(&worker)),
        ("c.port = ?#", given(&filter.port)),
        ("c.subdomain = ?#", given(&filter.subdomain)),
        ("c.id > ?#", given(&after)),
    ];
    let mut conditions = vec!["true".to_owned()];
    let mut params: Vec<&dyn ToSql> = vec![&limit];
    for (condition, value) in wanted {
        let Some(value) = value else { continue };
        params.push(value);
        conditions.push(condition.replace("?#", &format!("?{}", params.len())));
    }
    let sql = format!(
        "SELECT {} FROM circuits c WHERE {} ORDER BY c.id LIMIT ?1",
        rows::CIRCUIT,
        conditions.join(" AND ")
    );
    circuits::read_where(tx, &sql, params.as_slice())
}

fn given<T: ToSql>(value: &Option<T>) -> Option<&dyn ToSql> {
    value.as_ref().map(|value| value as _)
}

/// Leads a circuit to another address.
pub(super) fn lead_elsewhere(
    tx: &Transaction<'_>,
    id: CircuitId,
    host: &str,
    port: u16,
    cause: &Cause,
) -> Result<Option<Rerouted>> {
    let found = circuits::get(tx, id)?.filter(|circuit| circuit.endpoint_id.is_none());
    let Some(mut circuit) = found else {
        return Ok(None);
    };
    circuit.updated_at = timestamp::now();
    for route in &mut circuit.route_info {
        route.kernel_host = Some(host.to_owned());
        route.kernel_port = port;
    }
    let rerouted = endpoints::rewrite(tx, vec![circuit], cause)?;
    Ok(rerouted.into_iter().next())
}

/// Ends all there is of a session.
pub(super) fn end(tx: &Transaction<'_>, session: SessionId, cause: &Cause) -> Result<Ended> {
    const DOING: &str = "ending a session";
    let name = session.to_string();
    tx.execute("DELETE FROM tokens WHERE session_id = ?1", [&name])
        .doing(DOING)?;
    // Not by reading the circuits: one that cannot be read is closed all the same.
    let own: Vec<CircuitId> = tx
        .prepare_cached("SELECT circuit FROM circuit_sessions WHERE session = ?1")
        .and_then(|mut statement| {
            let rows = statement.query_map([&name], |row| rows::uuid(row, 0).map(CircuitId))?;
            rows.collect()
        })
        .doing(DOING)?;
    let closed = circuits::close_all(tx, &own, cause)?;
    let mut touched = circuits::select(tx, &LEADS_THERE.replace("?#", "?1"), &name)?;
    for circuit in &mut touched {
        circuit.updated_at = timestamp::now();
        circuit
            .route_info
            .retain(|route| route.session_id != session);
    }
    let rerouted = endpoints::rewrite(tx, touched, cause)?;
    Ok(Ended { closed, rerouted })
}
