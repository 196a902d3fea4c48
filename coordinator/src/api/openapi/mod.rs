//! The API's description: `/openapi.json`, and `/docs`, a page that shows it without any other
//! server's help.
//!
//! `operations` is a table beside the route table: one line for each method and path, and the
//! tests hold the two against each other in both directions. `schemas` says how bodies look; the
//! tests hold them against what is really answered. `docs/openapi.json` is this document, kept so
//! that a change of the API is seen in review. This room refuses to serve anything else.

mod grants;
mod operation;
mod operations;
mod schemas;
mod services;
mod tunnels;

#[cfg(test)]
mod tests;

use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::json::{CONTENT_TYPE_JSON, to_vec};
use operation::{Access, Answer, Operation};

const PAGE: &str = include_str!("page.html");
/// The page runs its own script and style, reads this server's document, and nothing else.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'",
);

/// `GET /openapi.json`.
pub(crate) async fn document_json() -> Result<Response, ApiError> {
    let body = to_vec(&document());
    let body = body.map_err(|error| ApiError::Internal(format!("no API document: {error}")))?;
    Ok(([(CONTENT_TYPE, CONTENT_TYPE_JSON)], body).into_response())
}

/// `GET /docs`.
pub(crate) async fn page() -> Response {
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    let headers = [(CONTENT_TYPE, kind), (CONTENT_SECURITY_POLICY, POLICY)];
    (headers, PAGE).into_response()
}

/// The whole document.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for operation in operations::all() {
        let methods = paths.entry(operation.path).or_insert_with(|| json!({}));
        methods[operation.method] = describe(operation);
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Patchbay coordinator",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "description": "Workers, circuits, endpoints, tokens and slots. Parameters are read \
                leniently: numbers and flags may be texts, unknown keys are passed over, and \
                where a request has a body its query is not looked at.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "securitySchemes": {
                "secret": {"type": "apiKey", "in": "header", "name": "X-BackendAI-Token",
                    "description": "secrets.api_secret, bare or behind `Bearer ` or `BackendAI `"},
                "signed": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "an HS256 token signed with secrets.api_secret"},
            },
        },
    })
}

fn describe(operation: &Operation) -> Value {
    let mut answers = Map::new();
    let (status, good) = answer(&operation.answer);
    answers.insert(status.into(), good);
    for status in refusals(operation) {
        let problem = content("application/json", schema("Problem"));
        let mut refusal = json!({"description": operation::reason(status)});
        refusal["content"] = problem;
        answers.insert(status.to_string(), refusal);
    }
    let mut described = json!({
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": operation.id(),
        "parameters": parameters(operation),
        "responses": answers,
    });
    if let Some(body) = operation.body {
        described["requestBody"] = json!({
            "required": true,
            "content": content("application/json", schema(body)),
        });
    }
    if let Access::Secret | Access::SecretUnlessAllowed = operation.access {
        described["security"] = json!([{"secret": []}, {"signed": []}]);
    }
    described
}

/// What can be refused: what the table says, and what follows from the rest of the line.
fn refusals(operation: &Operation) -> Vec<u16> {
    let mut all = operation.refusals.to_vec();
    match operation.access {
        Access::Secret | Access::SecretUnlessAllowed => all.push(401),
        Access::Networks => all.push(403),
        Access::Open => {}
    }
    if operation.body.is_some() || !operation.query.is_empty() {
        all.push(400);
    }
    if operation.path.contains('{') && operation.path != operation::ADD {
        all.push(404);
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let named = operation.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        Some(json!({
            "name": name, "in": "path", "required": true,
            "schema": operation::segment(operation.path),
        }))
    });
    let asked = operation.query.iter().map(|one| {
        json!({
            "name": one.name, "in": "query", "required": one.required,
            "description": one.about, "schema": schemas::word(one.kind),
        })
    });
    named.chain(asked).collect()
}

fn answer(answer: &Answer) -> (&'static str, Value) {
    match answer {
        Answer::Json(name) => {
            let good = json!({
                "description": "done",
                "content": content("application/json", schema(name)),
            });
            ("200", good)
        }
        Answer::Text(kind, about) => {
            let text = content(kind, json!({"type": "string"}));
            ("200", json!({"description": about, "content": text}))
        }
        Answer::Lead => {
            let good = json!({
                "description": "where the app is opened, to clients that ask for JSON by name; \
                    all others are sent there with 308",
                "content": content("application/json", schema("Lead")),
            });
            ("200", good)
        }
    }
}

fn content(kind: &str, schema: Value) -> Value {
    json!({ kind: {"schema": schema} })
}

fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
