//! What the columns hold: lengths of contract/database.md §3, checked before either database is
//! asked, so that both refuse the same values with the same words.

use patchbay_common::circuit::FrontendMode;
use patchbay_common::route::Route;
use patchbay_common::worker::Registration;
use serde_json::Value;

use super::{HealthCheck, NewCircuit, NewEndpoint, Result, SessionToken, SlotWish, StoreError};

/// Longest name of a node; the column is ours.
const NODE_ID: usize = 255;

/// Refuses a circuit that its row cannot hold.
pub(super) fn circuit(new: &NewCircuit) -> Result<()> {
    optional("app", new.app.as_deref(), 255)?;
    optional("arguments", new.arguments.as_deref(), 1000)?;
    optional("allowed_client_ips", new.allowed_client_ips.as_deref(), 255)?;
    optional("runtime_variant", new.runtime_variant.as_deref(), 64)?;
    optional("origin_request_id", new.origin_request_id.as_deref(), 128)?;
    if let SlotWish::Subdomain(name) = &new.slot {
        required("subdomain", name, 63)?;
    }
    for (key, value) in &new.envs {
        text("envs", key, usize::MAX)?;
        no_nul("envs", value)?;
    }
    routes(&new.routes)
}

/// Refuses endpoints that their rows cannot hold.
pub(super) fn endpoints(endpoints: &[NewEndpoint]) -> Result<()> {
    for endpoint in endpoints {
        health_check(endpoint.health_check.as_ref())?;
        endpoint.circuit.as_ref().map_or(Ok(()), circuit)?;
    }
    Ok(())
}

/// Refuses routes that a row cannot hold.
pub(super) fn routes(routes: &[Route]) -> Result<()> {
    for route in routes {
        optional("kernel_host", route.kernel_host.as_deref(), 255)?;
        optional("session_name", route.session_name.as_deref(), 255)?;
        if !(route.traffic_ratio.is_finite() && route.traffic_ratio >= 0.0) {
            return Err(unfit("traffic_ratio", "it must be a number from 0 up"));
        }
    }
    Ok(())
}

/// Refuses a health check that its row cannot hold.
pub(super) fn health_check(check: Option<&HealthCheck>) -> Result<()> {
    let Some(check) = check else { return Ok(()) };
    text("health_check.path", &check.path, 2048)?;
    for (field, seconds) in [
        ("health_check.interval", check.interval),
        ("health_check.max_wait_time", check.max_wait_time),
        ("health_check.initial_delay", check.initial_delay),
    ] {
        if !(seconds.is_finite() && seconds >= 0.0) {
            return Err(unfit(field, "it must be a number of seconds from 0 up"));
        }
    }
    Ok(())
}

/// Refuses a worker that its row cannot hold, or that has no slots to give.
pub(super) fn registration(registration: &Registration) -> Result<()> {
    required("authority", &registration.authority, 255)?;
    text("hostname", &registration.hostname, 1024)?;
    let domain = registration.wildcard_domain.as_deref();
    optional("wildcard_domain", domain, 1024)?;
    optional(
        "traefik_last_used_marker_path",
        registration.traefik_last_used_marker_path.as_deref(),
        1024,
    )?;
    node(registration.node_id.as_deref())?;
    for filter in &registration.app_filters {
        text("app_filters.key", &filter.key, 96)?;
        text("app_filters.value", &filter.value, 1024)?;
    }
    match (registration.frontend_mode, registration.port_range, domain) {
        (FrontendMode::Port, None, _) => Err(unfit("port_range", "port mode needs one")),
        (FrontendMode::Port, Some((first, last)), _) if first > last => Err(unfit(
            "port_range",
            "its first port must not be above its last",
        )),
        (FrontendMode::Wildcard, _, None | Some("")) => {
            Err(unfit("wildcard_domain", "wildcard mode needs one"))
        }
        _ => Ok(()),
    }
}

/// Refuses a name that no node can have.
pub(super) fn node(name: Option<&str>) -> Result<()> {
    optional("node_id", name, NODE_ID)
}

/// Refuses a token that its row cannot hold.
pub(super) fn token(token: &SessionToken) -> Result<()> {
    optional(
        "login_session_token",
        token.login_session_token.as_deref(),
        127,
    )?;
    text("kernel_host", &token.kernel_host, 255)?;
    text("access_key", &token.access_key, usize::MAX)?;
    text("domain_name", &token.domain_name, usize::MAX)
}

/// Slots a worker offers: -1 where they are subdomains, else the size of its range.
pub(super) fn available_slots(registration: &Registration) -> i32 {
    match (registration.frontend_mode, registration.port_range) {
        (FrontendMode::Port, Some((first, last))) => i32::from(last) - i32::from(first) + 1,
        _ => -1,
    }
}

/// The form in which domains are compared; `None` outside wildcard mode.
pub(super) fn slot_domain(registration: &Registration) -> Option<String> {
    match registration.frontend_mode {
        FrontendMode::Port => None,
        FrontendMode::Wildcard => registration
            .wildcard_domain
            .as_ref()
            .map(|domain| domain.to_ascii_lowercase()),
    }
}

fn required(field: &'static str, value: &str, longest: usize) -> Result<()> {
    if value.is_empty() {
        return Err(unfit(field, "it must not be empty"));
    }
    text(field, value, longest)
}

fn optional(field: &'static str, value: Option<&str>, longest: usize) -> Result<()> {
    value.map_or(Ok(()), |value| text(field, value, longest))
}

fn text(field: &'static str, value: &str, longest: usize) -> Result<()> {
    if value.contains('\0') {
        return Err(unfit(field, "it must not contain a NUL character"));
    }
    // Bytes are counted first: a text of few bytes cannot have many characters.
    if value.len() > longest && value.chars().count() > longest {
        return Err(unfit(
            field,
            format!("it must have at most {longest} characters"),
        ));
    }
    Ok(())
}

fn no_nul(field: &'static str, value: &Value) -> Result<()> {
    match value {
        Value::String(content) => text(field, content, usize::MAX),
        Value::Array(items) => items.iter().try_for_each(|item| no_nul(field, item)),
        Value::Object(entries) => entries.iter().try_for_each(|(key, item)| {
            text(field, key, usize::MAX)?;
            no_nul(field, item)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn unfit(field: &'static str, problem: impl Into<String>) -> StoreError {
    StoreError::Unfit {
        field,
        problem: problem.into(),
    }
}
