//! Circuits by session, service and place, and what becomes of them when a session moves or ends,
//! in PostgreSQL.

use deadpool_postgres::{GenericClient, Transaction};
use patchbay_common::circuit::Circuit;
use patchbay_common::id::{CircuitId, SessionId};
use patchbay_common::timestamp;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{circuits, endpoints, rows};
use crate::store::error::Doing;
use crate::store::{Cause, CircuitFilter, Ended, Rerouted, Result, stored};

/// The endpoints' circuits that lead to the session `$?`.
const LEADS_THERE: &str = "(c.endpoint_id IS NOT NULL AND c.route_info @> \
     jsonb_build_array(jsonb_build_object('session_id', $?::uuid::text)))";

/// The circuits that match, by key.
pub(super) async fn circuits(
    client: &impl GenericClient,
    filter: &CircuitFilter,
    limit: usize,
) -> Result<Vec<Circuit>> {
    const DOING: &str = "listing circuits";
    let session = filter.session.map(|id| id.0);
    let worker = filter.worker.map(|id| id.0);
    let port = filter.port.map(i32::from);
    let after = filter.after.map(|id| id.0);
    let limit = stored::limit_column(limit);
    let of_session = format!("(c.session_ids @> ARRAY[$?::uuid] OR {LEADS_THERE})");
    let wanted = [
        (of_session.as_str(), given(&session)),
        ("c.app = $?", given(&filter.app)),
        ("c.worker = $?", given(&worker)),
        ("c.port = $?", given(&port)),
        ("c.subdomain = $?", given(&filter.subdomain)),
        ("c.id > $?", given(&after)),
    ];
    let mut conditions = vec!["true".to_owned()];
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&limit];
    for (condition, value) in wanted {
        let Some(value) = value else { continue };
        params.push(value);
        conditions.push(condition.replace("$?", &format!("${}", params.len())));
    }
    let sql = format!(
        "SELECT {} FROM circuits c WHERE {} ORDER BY c.id LIMIT $1",
        rows::CIRCUIT,
        conditions.join(" AND ")
    );
    let rows = client.query(&sql, &params).await.doing(DOING)?;
    Ok(circuits::read_all(&rows))
}

fn given<T: ToSql + Sync>(value: &Option<T>) -> Option<&(dyn ToSql + Sync)> {
    value.as_ref().map(|value| value as _)
}

/// Leads a circuit to another address.
pub(super) async fn lead_elsewhere(
    tx: &Transaction<'_>,
    id: CircuitId,
    host: &str,
    port: u16,
    cause: &Cause,
) -> Result<Option<Rerouted>> {
    let locked = "c.id = ANY($1) AND c.endpoint_id IS NULL FOR UPDATE OF c";
    let mut found = circuits::select(tx, locked, &[id.0]).await?;
    let Some(circuit) = found.first_mut() else {
        return Ok(None);
    };
    circuit.updated_at = timestamp::now();
    for route in &mut circuit.route_info {
        route.kernel_host = Some(host.to_owned());
        route.kernel_port = port;
    }
    let rerouted = endpoints::rewrite(tx, &found, cause).await?;
    Ok(rerouted.into_iter().next())
}

/// Ends all there is of a session.
pub(super) async fn end(tx: &Transaction<'_>, session: SessionId, cause: &Cause) -> Result<Ended> {
    const DOING: &str = "ending a session";
    let statement = tx
        .prepare_cached("DELETE FROM tokens WHERE session_id = $1")
        .await
        .doing(DOING)?;
    tx.execute(&statement, &[&session.0]).await.doing(DOING)?;
    let statement = tx
        .prepare_cached("SELECT id FROM circuits WHERE session_ids @> ARRAY[$1::uuid]")
        .await
        .doing(DOING)?;
    let own = tx.query(&statement, &[&session.0]).await.doing(DOING)?;
    let own: Vec<Uuid> = own.iter().map(|row| row.get(0)).collect();
    let closed = circuits::close_all(tx, circuits::Key::Circuit, &own, cause).await?;
    let leads_there = LEADS_THERE.replace("$?", "($1::uuid[])[1]");
    let locked = format!("{leads_there} ORDER BY c.worker, c.id FOR UPDATE OF c");
    let mut touched = circuits::select(tx, &locked, &[session.0]).await?;
    for circuit in &mut touched {
        circuit.updated_at = timestamp::now();
        circuit
            .route_info
            .retain(|route| route.session_id != session);
    }
    let rerouted = endpoints::rewrite(tx, &touched, cause).await?;
    Ok(Ended { closed, rerouted })
}
