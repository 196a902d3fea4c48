//! `ctl services`: the gateway's services, listed, shown, put and taken away.

use std::io::Read as _;
use std::path::Path;

use serde_json::{Value, json};

use super::arguments::ServiceAction;
use super::client::{CallError, Client};
use super::commands::{Answer, list, query};
use super::show::cell;
use super::table::Table;

/// Does what was asked.
///
/// # Errors
/// [`CallError`].
pub(super) async fn answer(
    client: &Client,
    action: Option<&ServiceAction>,
) -> Result<Answer, CallError> {
    match action {
        None => {
            let json = client.get("/api/services").await?;
            let text = listed(list(&json, "services"));
            Ok(Answer { json, text })
        }
        Some(ServiceAction::Get { name }) => {
            let json = client.get(&path(name)).await?;
            let text = shown(&json);
            Ok(Answer { json, text })
        }
        Some(ServiceAction::Put { name, file }) => {
            let json = client.put(&path(name), &read(file)?).await?;
            let text = format!("{name} is kept (generation {})\n", json["generation"]);
            Ok(Answer { json, text })
        }
        Some(ServiceAction::Delete { name }) => {
            let json = client.delete(&path(name)).await?;
            let text = format!("{name} is gone\n");
            Ok(Answer { json, text })
        }
        Some(ServiceAction::Audit { service, limit }) => {
            let query = query([
                ("limit", Some(limit.to_string())),
                ("service", service.clone()),
            ]);
            let json = client
                .get(&format!("/api/services/_/audit?{query}"))
                .await?;
            let text = audit(list(&json, "entries"));
            Ok(Answer { json, text })
        }
    }
}

fn path(name: &str) -> String {
    let name: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
    format!("/api/services/{name}")
}

/// A definition out of a TOML or JSON file.
fn read(file: &Path) -> Result<Value, CallError> {
    let wrong = |problem: String| CallError::File {
        file: file.display().to_string(),
        problem,
    };
    let text = if file == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        read.map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|error| wrong(error.to_string()))?;
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(&text).map_err(|error| wrong(error.to_string()));
    }
    toml::from_str(&text).map_err(|error| wrong(error.to_string()))
}

fn listed(services: &[Value]) -> String {
    let mut table = Table::new(&["SERVICE", "ORIGIN", "INSTANCES", "ROUTES", "SINCE"]);
    for one in services {
        let definition = &one["definition"];
        let instances = list(&definition["service"], "instances");
        let routes = definition["routes"].as_object();
        let routes = routes
            .into_iter()
            .flatten()
            .map(|(name, route)| at(name, route));
        table.row(vec![
            cell(&one["name"]),
            cell(&one["origin"]),
            instances.len().to_string(),
            routes.collect::<Vec<_>>().join(", "),
            cell(&one["updated_at"]),
        ]);
    }
    table.render()
}

/// Where a route is found; its name, if it takes everything.
fn at(name: &str, route: &Value) -> String {
    let host: Vec<&str> = match &route["host"] {
        Value::Array(hosts) => hosts.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let path = route["path"].as_str().or(route["path_prefix"].as_str());
    match (host.join("|"), path) {
        (host, None) if host.is_empty() => name.to_owned(),
        (host, path) => format!("{host}{}", path.unwrap_or_default()),
    }
}

fn shown(service: &Value) -> String {
    let mut table = Table::new(&["SERVICE", "ORIGIN", "ALSO", "GENERATION", "SINCE"]);
    let also = list(service, "also").iter().filter_map(Value::as_str);
    table.row(vec![
        cell(&service["name"]),
        cell(&service["origin"]),
        also.collect::<Vec<_>>().join(", "),
        cell(&service["generation"]),
        cell(&service["updated_at"]),
    ]);
    // As it may be put again.
    let definition = toml::to_string(&service["definition"]);
    let definition = definition.unwrap_or_else(|_| json!(service["definition"]).to_string());
    format!("{}\n{definition}", table.render())
}

fn audit(entries: &[Value]) -> String {
    let columns = [
        "at",
        "action",
        "name",
        "origin",
        "actor",
        "reason",
        "request_id",
    ];
    let mut table = Table::new(&[
        "AT", "ACTION", "SERVICE", "ORIGIN", "BY", "REASON", "REQUEST",
    ]);
    for one in entries {
        table.row(columns.map(|key| cell(&one[key])).to_vec());
    }
    table.render()
}
