//! Rows of PostgreSQL as the stored forms.

use tokio_postgres::Row;

use crate::store::stored::{CircuitRow, EventRow, WorkerRow};

/// Columns of `circuits c`, in the order [`circuit`] reads them.
pub(super) const CIRCUIT: &str = "c.id, c.app, c.protocol::text, c.worker, c.app_mode::text, \
    c.frontend_mode::text, c.port, c.subdomain, c.envs, c.arguments, c.open_to_public, \
    c.allowed_client_ips, c.user_id, c.endpoint_id, c.runtime_variant, c.session_ids, \
    c.route_info, c.created_at, c.updated_at, c.origin_request_id, \
    (SELECT p.health_check_config FROM endpoints p WHERE p.id = c.endpoint_id), c.revocations";

/// Columns of `workers w`, in the order [`worker`] reads them.
pub(super) const WORKER: &str = "w.id, w.authority, w.frontend_mode::text, w.protocol::text, \
    w.hostname, w.tls_listen, w.tls_advertised, w.api_port, w.port_range, w.wildcard_domain, \
    w.wildcard_traffic_port, w.filtered_apps_only, w.traefik_last_used_marker_path, \
    w.accepted_traffics::text[], w.created_at, w.updated_at, w.available_slots, \
    w.occupied_slots, w.nodes, w.status";

/// Columns of `patchbay_events e`, in the order [`event`] reads them.
pub(super) const EVENT: &str = "e.worker, e.generation, e.name, e.body, e.request_id, e.created_at";

type Read<T> = Result<T, tokio_postgres::Error>;

/// Reads a row of `circuits`.
pub(super) fn circuit(row: &Row) -> Read<CircuitRow> {
    Ok(CircuitRow {
        id: row.try_get(0)?,
        app: row.try_get(1)?,
        protocol: row.try_get(2)?,
        worker: row.try_get(3)?,
        app_mode: row.try_get(4)?,
        frontend_mode: row.try_get(5)?,
        port: row.try_get(6)?,
        subdomain: row.try_get(7)?,
        envs: row.try_get(8)?,
        arguments: row.try_get(9)?,
        open_to_public: row.try_get(10)?,
        allowed_client_ips: row.try_get(11)?,
        user_id: row.try_get(12)?,
        endpoint_id: row.try_get(13)?,
        runtime_variant: row.try_get(14)?,
        session_ids: row.try_get(15)?,
        route_info: row.try_get(16)?,
        created_at: row.try_get(17)?,
        updated_at: row.try_get(18)?,
        origin_request_id: row.try_get(19)?,
        health_check: row.try_get(20)?,
        revocations: row.try_get(21)?,
    })
}

/// Reads a row of `workers`.
pub(super) fn worker(row: &Row) -> Read<WorkerRow> {
    Ok(WorkerRow {
        id: row.try_get(0)?,
        authority: row.try_get(1)?,
        frontend_mode: row.try_get(2)?,
        protocol: row.try_get(3)?,
        hostname: row.try_get(4)?,
        tls_listen: row.try_get(5)?,
        tls_advertised: row.try_get(6)?,
        api_port: row.try_get(7)?,
        port_range: row.try_get(8)?,
        wildcard_domain: row.try_get(9)?,
        wildcard_traffic_port: row.try_get(10)?,
        filtered_apps_only: row.try_get(11)?,
        traefik_last_used_marker_path: row.try_get(12)?,
        accepted_traffics: row.try_get(13)?,
        created_at: row.try_get(14)?,
        updated_at: row.try_get(15)?,
        available_slots: row.try_get(16)?,
        occupied_slots: row.try_get(17)?,
        nodes: row.try_get(18)?,
        status: row.try_get(19)?,
    })
}

/// Reads a row of `patchbay_events`.
pub(super) fn event(row: &Row) -> Read<EventRow> {
    Ok(EventRow {
        worker: row.try_get(0)?,
        generation: row.try_get(1)?,
        name: row.try_get(2)?,
        body: row.try_get(3)?,
        request_id: row.try_get(4)?,
        created_at: row.try_get(5)?,
    })
}
