//! What each command asks the coordinator, and how the answers are put together.

use patchbay_common::id::CircuitId;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::arguments::Action;
use super::client::{CallError, Client};
use super::{services, show};

/// One answer, for programs and for people.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) json: Value,
    pub(super) text: String,
}

/// Does what was asked.
///
/// # Errors
/// [`CallError`].
pub(super) async fn answer(client: &Client, action: &Action) -> Result<Answer, CallError> {
    match action {
        Action::Workers => {
            let json = client.get("/api/worker").await?;
            let text = show::workers(list(&json, "workers"));
            Ok(Answer { json, text })
        }
        Action::Circuits { session, worker } => {
            let session = session.map(|id| id.to_string());
            circuits(client, session.as_deref(), worker.as_deref()).await
        }
        Action::Circuit { id } => {
            let mut json = client.get(&format!("/api/circuit/{id}/statistics")).await?;
            json["health"] = client.get(&format!("/health/circuits/{id}")).await?;
            let text = show::circuit(&json);
            Ok(Answer { json, text })
        }
        Action::Close { ids } => close(client, ids).await,
        Action::Revoke { circuit, name, all } => {
            revoke(client, *circuit, name.as_deref(), *all).await
        }
        Action::Slots { worker, all } => slots(client, worker.as_deref(), *all).await,
        Action::Routes {
            session,
            service,
            worker,
        } => {
            let session = session.map(|id| id.to_string());
            routes(client, session, service.clone(), worker.clone()).await
        }
        Action::Audit {
            circuit,
            session,
            worker,
            limit,
        } => {
            let query = query([
                ("limit", Some(limit.to_string())),
                ("circuit", circuit.map(|id| id.to_string())),
                ("session", session.map(|id| id.to_string())),
                ("worker", worker.clone()),
            ]);
            let json = client.get(&format!("/api/audit?{query}")).await?;
            let text = show::audit(list(&json, "entries"));
            Ok(Answer { json, text })
        }
        Action::Services { action } => services::answer(client, action.as_ref()).await,
        Action::Health => health(client).await,
        // Answered without a coordinator.
        Action::Completion { .. } => Ok(Answer::default()),
    }
}

async fn revoke(
    client: &Client,
    circuit: CircuitId,
    name: Option<&str>,
    all: bool,
) -> Result<Answer, CallError> {
    let query = query([
        ("jti", name.map(str::to_owned)),
        ("all", all.then(|| "true".to_owned())),
    ]);
    let path = format!("/api/circuit/{circuit}/revocations?{query}");
    let json = client.post(&path).await?;
    let what = name.unwrap_or("all given so far");
    let text = format!("revoked {what} of {circuit}\n");
    Ok(Answer { json, text })
}

async fn close(client: &Client, ids: &[CircuitId]) -> Result<Answer, CallError> {
    let mut text = String::new();
    for id in ids {
        client.delete(&format!("/api/circuit/{id}")).await?;
        text.push_str(&format!("closed {id}\n"));
    }
    let json = json!({ "closed": ids });
    Ok(Answer { json, text })
}

/// The list under a key of an answer.
pub(super) fn list<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer[key]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// A query string of what is given.
pub(super) fn query<const N: usize>(pairs: [(&str, Option<String>); N]) -> String {
    let given = pairs
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(given)
        .finish()
}

/// All pages of routes.
async fn routes(
    client: &Client,
    session: Option<String>,
    service: Option<String>,
    worker: Option<String>,
) -> Result<Answer, CallError> {
    let mut routes = Vec::new();
    let mut cursor = None;
    loop {
        let query = query([
            ("limit", Some("1000".into())),
            ("session_id", session.clone()),
            ("service", service.clone()),
            ("worker", worker.clone()),
            ("cursor", cursor),
        ]);
        let page = client.get(&format!("/routes?{query}")).await?;
        routes.extend(list(&page, "routes").iter().cloned());
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    let text = show::routes(&routes);
    let json = json!({ "routes": routes });
    Ok(Answer { json, text })
}

/// The workers, or the one of a name.
async fn workers(client: &Client, name: Option<&str>) -> Result<Vec<Value>, CallError> {
    let answer = client.get("/api/worker").await?;
    let wanted = |worker: &&Value| name.is_none_or(|name| worker["authority"] == name);
    let found: Vec<Value> = list(&answer, "workers")
        .iter()
        .filter(wanted)
        .cloned()
        .collect();
    match name {
        Some(name) if found.is_empty() => Err(CallError::NotFound {
            call: "GET /api/worker".into(),
            text: format!("no worker is called {name}"),
        }),
        _ => Ok(found),
    }
}

async fn circuits(
    client: &Client,
    session: Option<&str>,
    worker: Option<&str>,
) -> Result<Answer, CallError> {
    let mut circuits = Vec::new();
    let mut rows = Vec::new();
    for worker in workers(client, worker).await? {
        let id = worker["id"].as_str().unwrap_or_default();
        let held = client.get(&format!("/api/worker/{id}/circuits")).await?;
        for circuit in list(&held, "circuits") {
            let of_session = |wanted| list(circuit, "session_ids").iter().any(|id| *id == wanted);
            if session.is_none_or(of_session) {
                rows.push(show::circuit_row(circuit, &worker));
                circuits.push(circuit.clone());
            }
        }
    }
    Ok(Answer {
        json: json!({ "circuits": circuits }),
        text: show::circuits(rows),
    })
}

async fn slots(client: &Client, worker: Option<&str>, all: bool) -> Result<Answer, CallError> {
    let mut slots = Vec::new();
    for worker in workers(client, worker).await? {
        for slot in list(&worker, "slots") {
            if all || slot["in_use"] == true {
                let mut slot = slot.clone();
                slot["worker"] = worker["authority"].clone();
                slots.push(slot);
            }
        }
    }
    let text = show::slots(&slots);
    let json = json!({ "slots": slots });
    Ok(Answer { json, text })
}

async fn health(client: &Client) -> Result<Answer, CallError> {
    let coordinator = client.get("/health").await?;
    let fleet = client.get("/health/status").await?;
    let routes = client.get("/health/summary").await?;
    let text = show::health(&coordinator, list(&fleet, "workers"), &routes);
    let json = json!({
        "coordinator": coordinator, "workers": fleet["workers"], "summary": routes,
    });
    Ok(Answer { json, text })
}
