//! Answers as tables for people.

use serde_json::Value;

use super::table::Table;

/// A value as a cell: texts bare, absent ones empty.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn texts(value: &Value) -> String {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(cell).collect::<Vec<_>>().join(",")
}

/// `port 10205` or `jupyter-1`.
fn slot(holder: &Value) -> String {
    match (&holder["port"], &holder["subdomain"]) {
        (Value::Number(port), _) => port.to_string(),
        (_, name) => cell(name),
    }
}

/// Free slots; a worker of subdomains has no end of them.
fn free(worker: &Value) -> String {
    let number = |key: &str| worker[key].as_i64().unwrap_or_default();
    match number("available_slots") {
        total if total < 0 => "unlimited".into(),
        total => (total - number("occupied_slots")).max(0).to_string(),
    }
}

/// All workers.
pub(super) fn workers(workers: &[Value]) -> String {
    let mut table = Table::new(&[
        "WORKER",
        "ID",
        "MODE",
        "PROTOCOL",
        "TRAFFIC",
        "USED",
        "FREE",
        "NODES",
        "GENERATION",
        "HEARD",
    ]);
    for worker in workers {
        table.row(vec![
            cell(&worker["authority"]),
            cell(&worker["id"]),
            cell(&worker["frontend_mode"]),
            cell(&worker["protocol"]),
            texts(&worker["accepted_traffics"]),
            cell(&worker["occupied_slots"]),
            free(worker),
            cell(&worker["nodes"]),
            cell(&worker["generation"]),
            cell(&worker["updated_at"]),
        ]);
    }
    table.render()
}

/// A circuit among others.
pub(super) fn circuit_row(circuit: &Value, worker: &Value) -> Vec<String> {
    let routes = circuit["route_info"].as_array().map_or(0, Vec::len);
    vec![
        cell(&circuit["id"]),
        cell(&circuit["app"]),
        cell(&circuit["app_mode"]),
        cell(&circuit["protocol"]),
        cell(&worker["authority"]),
        slot(circuit),
        texts(&circuit["session_ids"]),
        routes.to_string(),
        cell(&circuit["created_at"]),
    ]
}

/// Circuits, by their rows.
pub(super) fn circuits(rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new(&[
        "CIRCUIT", "APP", "MODE", "PROTOCOL", "WORKER", "SLOT", "SESSIONS", "ROUTES", "OPENED",
    ]);
    for row in rows {
        table.row(row);
    }
    table.render()
}

/// One circuit: its keys below each other, then its routes.
pub(super) fn circuit(circuit: &Value) -> String {
    let mut table = Table::new(&["KEY", "VALUE"]);
    let keys = circuit.as_object().into_iter().flatten();
    for (key, value) in keys.filter(|(key, _)| !matches!(key.as_str(), "route_info" | "health")) {
        let shown = match value {
            Value::Array(_) => texts(value),
            Value::Object(map) if map.is_empty() => String::new(),
            other => cell(other),
        };
        table.row(vec![key.clone(), shown]);
    }
    table.row(vec!["health".into(), cell(&circuit["health"]["status"])]);
    let mut routes = Table::new(&["ROUTE", "SESSION", "KERNEL", "STATE", "SINCE", "PROBLEM"]);
    for route in circuit["health"]["routes"].as_array().into_iter().flatten() {
        routes.row(vec![
            cell(&route["route_id"]),
            cell(&route["session_id"]),
            format!("{}:{}", cell(&route["kernel_host"]), route["kernel_port"]),
            cell(&route["status"]),
            cell(&route["since"]),
            cell(&route["last_error"]),
        ]);
    }
    format!("{}\n{}", table.render(), routes.render())
}

/// Which session's service is reached where.
pub(super) fn routes(routes: &[Value]) -> String {
    let mut table = Table::new(&[
        "ROUTE",
        "SESSION",
        "SERVICE",
        "PROTOCOL",
        "KERNEL",
        "WORKER",
        "AVAILABLE",
        "URL",
    ]);
    for one in routes {
        let kernel = match &one["kernel_host"] {
            Value::String(host) => format!("{host}:{}", one["kernel_port"]),
            _ => String::new(),
        };
        let available = one["worker"]["available"] == true;
        table.row(vec![
            cell(&one["id"]),
            cell(&one["session_id"]),
            cell(&one["service"]),
            cell(&one["protocol"]),
            kernel,
            cell(&one["worker"]["authority"]),
            if available { "yes" } else { "no" }.into(),
            cell(&one["url"]),
        ]);
    }
    table.render()
}

/// What became of circuits.
pub(super) fn audit(entries: &[Value]) -> String {
    let mut table = Table::new(&[
        "AT", "ACTION", "CIRCUIT", "APP", "WORKER", "SLOT", "BY", "REASON", "REQUEST",
    ]);
    for one in entries {
        table.row(
            [
                "at",
                "action",
                "circuit",
                "app",
                "authority",
                "slot",
                "actor",
                "reason",
                "request_id",
            ]
            .map(|key| cell(&one[key]))
            .to_vec(),
        );
    }
    table.render()
}

/// Slots, each with its worker.
pub(super) fn slots(slots: &[Value]) -> String {
    let mut table = Table::new(&["WORKER", "SLOT", "IN USE", "CIRCUIT"]);
    for one in slots {
        let used = if one["in_use"] == true { "yes" } else { "no" };
        table.row(vec![
            cell(&one["worker"]),
            slot(one),
            used.into(),
            cell(&one["circuit_id"]),
        ]);
    }
    table.render()
}

/// The coordinator's parts, the workers heard of lately, and circuits by how their routes are.
pub(super) fn health(coordinator: &Value, workers: &[Value], routes: &Value) -> String {
    let mut parts = Table::new(&["PART", "STATE", "CHECKED", "PROBLEM"]);
    let checks = &coordinator["connectivity"]["connectivity_checks"];
    for check in checks.as_array().into_iter().flatten() {
        let good = check["is_healthy"] == true;
        parts.row(vec![
            format!(
                "{}/{}",
                cell(&check["service_group"]),
                cell(&check["component_id"])
            ),
            if good { "ok" } else { "failed" }.into(),
            cell(&check["last_checked_at"]),
            cell(&check["error_message"]),
        ]);
    }
    let mut fleet = Table::new(&["WORKER", "USED", "FREE"]);
    for worker in workers {
        fleet.row(vec![
            cell(&worker["authority"]),
            cell(&worker["occupied_slots"]),
            free(worker),
        ]);
    }
    let mut circuits = Table::new(&["CIRCUITS", "COUNT"]);
    for (state, count) in routes["circuits"].as_object().into_iter().flatten() {
        circuits.row(vec![state.clone(), cell(count)]);
    }
    let state = cell(&coordinator["status"]);
    let version = cell(&coordinator["version"]);
    format!(
        "coordinator {version}: {state}\n\n{}\n{}\n{}",
        parts.render(),
        fleet.render(),
        circuits.render()
    )
}
