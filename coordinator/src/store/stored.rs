//! The stored forms both databases share, and their reading into the nouns of `patchbay-common`.
//!
//! Reading is lenient where the incumbent left several forms behind (contract/database.md §4):
//! JSON may be double encoded, `envs` may be null, times may be missing. Writing always uses the
//! one form that the incumbent can read back.

use chrono::{DateTime, Utc};
use patchbay_common::circuit::{AppMode, Circuit, FrontendMode, Protocol, Slot};
use patchbay_common::event::{Change, CircuitEvent};
use patchbay_common::grant::{Revocation, Revocations};
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::route::Route;
use patchbay_common::route_report::RouteReport;
use patchbay_common::tunnel::{Claim, Holdings, Told};
use patchbay_common::worker::{Worker, WorkerStatus};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::{CircuitCount, HealthCheck, LoggedEvent, NewCircuit, Result, StoreError};

/// A row of `circuits`.
#[derive(Clone)]
pub(super) struct CircuitRow {
    pub(super) id: Uuid,
    pub(super) app: Option<String>,
    pub(super) protocol: String,
    pub(super) worker: Uuid,
    pub(super) app_mode: String,
    pub(super) frontend_mode: String,
    pub(super) port: Option<i32>,
    pub(super) subdomain: Option<String>,
    pub(super) envs: Option<Value>,
    pub(super) arguments: Option<String>,
    pub(super) open_to_public: bool,
    pub(super) allowed_client_ips: Option<String>,
    pub(super) user_id: Option<Uuid>,
    pub(super) endpoint_id: Option<Uuid>,
    pub(super) runtime_variant: Option<String>,
    pub(super) session_ids: Vec<Uuid>,
    pub(super) route_info: Value,
    pub(super) created_at: Option<DateTime<Utc>>,
    pub(super) updated_at: Option<DateTime<Utc>>,
    pub(super) origin_request_id: Option<String>,
    /// Of the endpoint, where it has one.
    pub(super) health_check: Option<Value>,
    /// JSON.
    pub(super) revocations: Option<String>,
}

impl CircuitRow {
    /// The circuit of the row.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the column.
    pub(super) fn read(self) -> Result<Circuit> {
        let id = self.id;
        let at = |column: &str| format!("circuits.{column} of {id}");
        Ok(Circuit {
            id: id.into(),
            app: self.app,
            protocol: label(&self.protocol, Protocol::from_label, || at("protocol"))?,
            worker: self.worker.into(),
            app_mode: label(&self.app_mode, AppMode::from_label, || at("app_mode"))?,
            frontend_mode: label(&self.frontend_mode, FrontendMode::from_label, || {
                at("frontend_mode")
            })?,
            envs: match self.envs {
                None | Some(Value::Null) => serde_json::Map::new(),
                Some(value) => json(value, || at("envs"))?,
            },
            arguments: self.arguments,
            open_to_public: self.open_to_public,
            allowed_client_ips: self.allowed_client_ips,
            port: optional_port(self.port, || at("port"))?,
            subdomain: self.subdomain,
            user_id: self.user_id.map(Into::into),
            endpoint_id: self.endpoint_id.map(Into::into),
            runtime_variant: self.runtime_variant,
            route_info: json::<Vec<Route>>(self.route_info, || at("route_info"))?,
            session_ids: self.session_ids.into_iter().map(Into::into).collect(),
            created_at: self.created_at.unwrap_or_default(),
            updated_at: self.updated_at.or(self.created_at).unwrap_or_default(),
            origin_request_id: self.origin_request_id,
            health_check: self.health_check.and_then(readable_health_check),
            revocations: match self.revocations {
                None => Revocations::default(),
                Some(text) => json(Value::String(text), || at("revocations"))?,
            },
        })
    }

    /// The circuit of the row, without the parts that people and programs write freely if those
    /// cannot be read: a circuit can be closed however broken its routes are.
    pub(super) fn read_for_closing(self) -> Result<Circuit> {
        let bare = Self {
            envs: None,
            route_info: Value::Array(Vec::new()),
            revocations: None,
            ..self.clone()
        };
        self.read().or_else(|_| bare.read())
    }
}

/// Adds to a circuit's list of grants that count no more; answers with the column.
pub(super) fn revoked(
    circuit: &mut Circuit,
    revocation: &Revocation,
    now: DateTime<Utc>,
) -> Result<String> {
    let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
    circuit.revocations.add(revocation, seconds)?;
    circuit.updated_at = now;
    serde_json::to_string(&circuit.revocations)
        .map_err(|cause| corrupt(circuit_place(circuit.id), cause))
}

/// Reads rows and leaves out those that cannot be read, with a line in the log for each: one
/// broken row must not cost a worker all its circuits.
pub(super) fn read_all(rows: impl IntoIterator<Item = Result<CircuitRow>>) -> Vec<Circuit> {
    rows.into_iter()
        .filter_map(|row| match row.and_then(CircuitRow::read) {
            Ok(circuit) => Some(circuit),
            Err(error) => {
                log::error!("a circuit is left out: {error}");
                None
            }
        })
        .collect()
}

/// A row of `workers`, its occupied slots counted.
pub(super) struct WorkerRow {
    pub(super) id: Uuid,
    pub(super) authority: String,
    pub(super) frontend_mode: String,
    pub(super) protocol: String,
    pub(super) hostname: String,
    pub(super) tls_listen: bool,
    pub(super) tls_advertised: bool,
    pub(super) api_port: i32,
    pub(super) port_range: Option<Vec<i32>>,
    pub(super) wildcard_domain: Option<String>,
    pub(super) wildcard_traffic_port: Option<i32>,
    pub(super) filtered_apps_only: bool,
    pub(super) traefik_last_used_marker_path: Option<String>,
    pub(super) accepted_traffics: Vec<String>,
    pub(super) created_at: Option<DateTime<Utc>>,
    pub(super) updated_at: Option<DateTime<Utc>>,
    pub(super) available_slots: i32,
    pub(super) occupied_slots: i32,
    pub(super) nodes: i32,
    pub(super) status: String,
}

impl WorkerRow {
    /// The worker of the row.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the column.
    pub(super) fn read(self) -> Result<Worker> {
        let id = self.id;
        let at = |column: &str| format!("workers.{column} of {id}");
        let port_range = match self.port_range.as_deref() {
            None => None,
            Some([first, last]) => Some((
                port(*first, || at("port_range"))?,
                port(*last, || at("port_range"))?,
            )),
            Some(_) => return Err(corrupt(at("port_range"), "not a pair")),
        };
        Ok(Worker {
            id: id.into(),
            authority: self.authority,
            frontend_mode: label(&self.frontend_mode, FrontendMode::from_label, || {
                at("frontend_mode")
            })?,
            protocol: label(&self.protocol, Protocol::from_label, || at("protocol"))?,
            hostname: self.hostname,
            tls_listen: self.tls_listen,
            tls_advertised: self.tls_advertised,
            api_port: port(self.api_port, || at("api_port"))?,
            port_range,
            wildcard_domain: self.wildcard_domain,
            wildcard_traffic_port: optional_port(self.wildcard_traffic_port, || {
                at("wildcard_traffic_port")
            })?,
            filtered_apps_only: self.filtered_apps_only,
            traefik_last_used_marker_path: self.traefik_last_used_marker_path,
            accepted_traffics: self
                .accepted_traffics
                .iter()
                .map(|text| label(text, AppMode::from_label, || at("accepted_traffics")))
                .collect::<Result<_>>()?,
            created_at: self.created_at.unwrap_or_default(),
            updated_at: self.updated_at.or(self.created_at).unwrap_or_default(),
            available_slots: self.available_slots,
            occupied_slots: self.occupied_slots,
            nodes: self.nodes,
            status: WorkerStatus::from_text(&self.status),
        })
    }
}

/// Reads rows and leaves out those that cannot be read, with a line in the log for each: one
/// broken worker must not keep the others from work.
pub(super) fn readable_workers(rows: impl IntoIterator<Item = Result<WorkerRow>>) -> Vec<Worker> {
    rows.into_iter()
        .filter_map(|row| match row.and_then(WorkerRow::read) {
            Ok(worker) => Some(worker),
            Err(error) => {
                log::error!("a worker is left out: {error}");
                None
            }
        })
        .collect()
}

/// A row of `patchbay_events`.
pub(super) struct EventRow {
    pub(super) worker: Uuid,
    pub(super) generation: i64,
    pub(super) name: String,
    pub(super) body: String,
    pub(super) request_id: Option<String>,
    pub(super) created_at: DateTime<Utc>,
}

impl EventRow {
    /// The event of the row.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the column.
    pub(super) fn read(self) -> Result<LoggedEvent> {
        let at = || {
            format!(
                "patchbay_events.body of {} at {}",
                self.worker, self.generation
            )
        };
        let event = CircuitEvent::from_body(&self.name, &self.body)
            .map_err(|problem| corrupt(at(), problem))?
            .ok_or_else(|| corrupt(at(), format!("unknown event {}", self.name)))?;
        Ok(LoggedEvent {
            worker: WorkerId(self.worker),
            generation: generation(self.generation)?,
            event,
            request_id: self.request_id,
            created_at: self.created_at,
        })
    }
}

/// An event as it is written: its name and its body.
pub(super) fn event_parts(authority: &str, change: Change) -> Result<(&'static str, Value)> {
    let event = CircuitEvent {
        authority: authority.to_owned(),
        change,
    };
    let body = event.body().map_err(|problem| StoreError::Unfit {
        field: "circuit",
        problem: problem.to_string(),
    })?;
    Ok((event.name(), body))
}

/// The events after `after`, if `rows` holds all of them up to the limit; `None` if one is
/// missing or unreadable, or if `after` is a generation the worker never had.
///
/// `rows` are ordered by generation, `current` is the worker's.
pub(super) fn unbroken(
    rows: Vec<EventRow>,
    after: u64,
    current: u64,
    limit: usize,
) -> Option<Vec<LoggedEvent>> {
    let expected = usize::try_from(current.checked_sub(after)?)
        .ok()?
        .min(limit);
    let events: Vec<LoggedEvent> = rows
        .into_iter()
        .map(EventRow::read)
        .collect::<Result<_>>()
        .map_err(|error| log::error!("an event cannot be told again: {error}"))
        .ok()?;
    let gapless = events
        .iter()
        .zip(after + 1..)
        .all(|(e, g)| e.generation == g);
    (events.len() == expected && gapless).then_some(events)
}

/// Reads events and leaves out those that cannot be read, with a line in the log for each.
pub(super) fn readable(rows: impl IntoIterator<Item = EventRow>) -> Vec<LoggedEvent> {
    rows.into_iter()
        .filter_map(|row| {
            row.read()
                .map_err(|error| log::error!("an event is left out: {error}"))
                .ok()
        })
        .collect()
}

/// A circuit as it is born.
pub(super) fn born(new: &NewCircuit, slot: &Slot, now: DateTime<Utc>) -> Circuit {
    let (frontend_mode, port, subdomain) = match slot {
        Slot::Port(port) => (FrontendMode::Port, Some(*port), None),
        Slot::Subdomain(name) => (FrontendMode::Wildcard, None, Some(name.clone())),
    };
    Circuit {
        id: new.id,
        app: new.app.clone(),
        // The labels PREOPEN, VNC and RDP do not exist in migrated databases.
        protocol: new.protocol.carried(),
        worker: new.worker,
        app_mode: new.app_mode,
        frontend_mode,
        envs: new.envs.clone(),
        arguments: new.arguments.clone(),
        open_to_public: new.open_to_public,
        allowed_client_ips: new.allowed_client_ips.clone(),
        port,
        subdomain,
        user_id: new.user_id,
        endpoint_id: new.endpoint_id,
        runtime_variant: new.runtime_variant.clone(),
        route_info: new.routes.clone(),
        session_ids: new.session_ids.clone(),
        created_at: now,
        updated_at: now,
        origin_request_id: new.origin_request_id.clone(),
        health_check: None,
        revocations: Revocations::default(),
    }
}

/// The routes as they are stored: a JSON array.
pub(super) fn route_info(circuit: &Circuit) -> Result<Value> {
    serde_json::to_value(&circuit.route_info).map_err(|problem| StoreError::Unfit {
        field: "route_info",
        problem: problem.to_string(),
    })
}

/// A health check as it is stored: the object's text inside a JSON text, or JSON null. Python
/// coordinators cannot read it as a plain object (contract/database.md §4).
pub(super) fn health_check(check: Option<&HealthCheck>) -> Result<Value> {
    let Some(check) = check else {
        return Ok(Value::Null);
    };
    let text = serde_json::to_string(check).map_err(|problem| StoreError::Unfit {
        field: "health_check",
        problem: problem.to_string(),
    })?;
    Ok(Value::String(text))
}

/// A health check out of its column. One that cannot be read costs the check, not the circuit.
pub(super) fn readable_health_check(stored: Value) -> Option<HealthCheck> {
    json(stored, String::new).unwrap_or_default()
}

/// A report as it is stored.
pub(super) fn report(report: &RouteReport) -> Result<Value> {
    serde_json::to_value(report).map_err(|problem| StoreError::Unfit {
        field: "circuits",
        problem: problem.to_string(),
    })
}

/// A report out of its column.
pub(super) fn read_report(stored: Value) -> Result<RouteReport> {
    json(stored, || "patchbay_route_reports.report".to_owned())
}

/// What a gateway claims, as it is stored.
pub(super) fn claim(claim: &Claim) -> Result<Value> {
    serde_json::to_value(claim).map_err(|problem| StoreError::Unfit {
        field: "tunnels",
        problem: problem.to_string(),
    })
}

/// What a gateway has told, out of its row.
pub(super) fn told(worker: Uuid, node: String, generation: i64, claim: Value) -> Result<Told> {
    Ok(Told {
        worker: worker.into(),
        node,
        generation: self::generation(generation)?,
        claim: json(claim, || "patchbay_tunnels.claim".to_owned())?,
    })
}

/// Adds a row to what is known: of a gateway that has been silent for long only the generation
/// counts, which is never given twice.
pub(super) fn gather(holdings: &mut Holdings, told: Told, fresh: bool) {
    holdings.generation = holdings.generation.max(told.generation);
    if fresh {
        holdings.gateways.push(told);
    }
}

/// The rows to write after a claim of this gateway: its own, and those that lost a name by it.
pub(super) fn to_write<'a>(
    before: &'a [Told],
    after: &'a Holdings,
    worker: WorkerId,
    node: &'a str,
) -> impl Iterator<Item = &'a Told> {
    let is_own = move |told: &Told| told.worker == worker && told.node == node;
    let all = after.gateways.iter();
    all.filter(move |told| is_own(told) || !before.contains(told))
}

/// A line of a count of circuits.
pub(super) fn count(worker: Uuid, mode: &str, protocol: &str, count: i64) -> Result<CircuitCount> {
    let at = || format!("circuits of {worker}");
    Ok(CircuitCount {
        worker: worker.into(),
        app_mode: label(mode, AppMode::from_label, at)?,
        protocol: label(protocol, Protocol::from_label, at)?,
        count: u64::try_from(count).unwrap_or(0),
    })
}

/// A generation out of its column.
pub(super) fn generation(stored: i64) -> Result<u64> {
    u64::try_from(stored).map_err(|problem| corrupt("a generation".to_owned(), problem))
}

/// A generation for its column; one that does not fit is above all that exist.
pub(super) fn generation_column(generation: u64) -> i64 {
    i64::try_from(generation).unwrap_or(i64::MAX)
}

/// A limit for a query.
pub(super) fn limit_column(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A port out of its column.
pub(super) fn port(stored: i32, place: impl Fn() -> String) -> Result<u16> {
    u16::try_from(stored).map_err(|_| corrupt(place(), format!("{stored} is not a port")))
}

fn optional_port(stored: Option<i32>, place: impl Fn() -> String) -> Result<Option<u16>> {
    stored.map(|stored| port(stored, place)).transpose()
}

fn label<T>(text: &str, read: impl Fn(&str) -> Option<T>, place: impl Fn() -> String) -> Result<T> {
    read(text).ok_or_else(|| corrupt(place(), format!("unknown label {text}")))
}

/// A JSON value, or the one inside it if it is a text (double encoded).
fn json<T: DeserializeOwned>(value: Value, place: impl Fn() -> String) -> Result<T> {
    match value {
        Value::String(inner) => serde_json::from_str(&inner),
        other => serde_json::from_value(other),
    }
    .map_err(|problem| corrupt(place(), problem))
}

/// Names a value that cannot be read.
pub(super) fn corrupt(place: String, problem: impl ToString) -> StoreError {
    StoreError::Corrupt {
        place,
        problem: problem.to_string(),
    }
}

/// What a circuit's key is called in messages.
pub(super) fn circuit_place(id: CircuitId) -> String {
    format!("circuits row {id}")
}
