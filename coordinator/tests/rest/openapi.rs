//! The API's document is true: what it says of methods, of credentials and of answers is what the
//! router does.

use std::collections::BTreeSet;

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::desk::{Desk, SESSION, bare, conf, port_worker, wildcard_worker};

pub(crate) async fn document(desk: &Desk) -> Value {
    let answer = desk.send(
        bare(Method::GET, "/openapi.json")
            .body(Body::empty())
            .unwrap(),
    );
    answer.await.expect(200).json()
}

/// A path with something in the place of its parameters.
fn concrete(path: &str) -> String {
    let id = "00000000-0000-4000-8000-000000000000";
    let parts = path
        .split('/')
        .map(|part| if part.starts_with('{') { id } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn the_methods_are_those_of_the_router() {
    let desk = Desk::open().await;
    let document = document(&desk).await;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let strange = Method::from_bytes(b"STRANGE").unwrap();
        let answer = desk
            .send(bare(strange, &concrete(path)).body(Body::empty()).unwrap())
            .await;
        let answer = answer.expect(405);
        let allowed: BTreeSet<String> = answer
            .header("allow")
            .split(',')
            .filter(|name| !matches!(*name, "HEAD" | "OPTIONS"))
            .map(str::to_lowercase)
            .collect();
        let described: BTreeSet<String> = methods.as_object().unwrap().keys().cloned().collect();
        assert_eq!(allowed, described, "{path}");
    }
}

#[tokio::test]
async fn credentials_are_asked_for_where_the_document_says_so() {
    let desk = Desk::open().await;
    let document = document(&desk).await;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (name, operation) in methods.as_object().unwrap() {
            let method = Method::from_bytes(name.to_uppercase().as_bytes()).unwrap();
            let request = bare(method, &concrete(path)).body(Body::empty()).unwrap();
            let answer = desk.send(request).await;
            let guarded = operation.get("security").is_some();
            assert_eq!(
                answer.status == 401,
                guarded,
                "{name} {path}: {}",
                answer.text
            );
            let said = operation["responses"].get(answer.status.as_str());
            assert!(
                said.is_some(),
                "{name} {path} answers {} unsaid",
                answer.status
            );
        }
    }
}

/// Where `value` is not as `schema` says; unknown keys are mistakes too.
fn misfit(document: &Value, schema: &Value, value: &Value, place: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        let schema = &document["components"]["schemas"][name];
        return misfit(document, schema, value, place);
    }
    if value.is_null() && schema["nullable"] == true {
        return None;
    }
    if let Some(inner) = schema["allOf"].get(0) {
        return misfit(document, inner, value, place);
    }
    let wrong = || Some(format!("{place}: {value} is not {schema}"));
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return wrong();
    }
    match (schema["type"].as_str(), value) {
        (None, _)
        | (Some("string"), Value::String(_))
        | (Some("boolean"), Value::Bool(_))
        | (Some("number"), Value::Number(_)) => None,
        (Some("integer"), Value::Number(number)) if !number.is_f64() => None,
        (Some("array"), Value::Array(items)) => items
            .iter()
            .find_map(|item| misfit(document, &schema["items"], item, place)),
        (Some("object"), Value::Object(map)) => {
            let known = schema["properties"].as_object()?;
            if known.is_empty() {
                return None;
            }
            let required = schema["required"].as_array().into_iter().flatten();
            let mut required = required.filter_map(Value::as_str);
            if let Some(absent) = required.find(|name| !map.contains_key(*name)) {
                return Some(format!("{place}: {absent} is absent"));
            }
            map.iter().find_map(|(key, value)| {
                let place = format!("{place}.{key}");
                match known.get(key) {
                    Some(schema) => misfit(document, schema, value, &place),
                    None => Some(format!("{place} is not described")),
                }
            })
        }
        _ => wrong(),
    }
}

const ENDPOINT: &str = "aaaaaaaa-0000-4000-8000-000000000001";

/// Calls in an order in which all of them succeed: method, path, query.
const CALLS: &str = "get /status
    get /health
    get /health/status
    get /openapi.json
    get /api/worker
    get /api/worker/{id}
    get /workers
    get /routes
    get /routes/{id}
    put /routes/{id}
    post /workers/register
    post /api/v1/route
    get /health/summary
    get /api/audit ?limit=1
    post /api/worker/{id}/route-health
    post /api/worker/{id}/uses
    post /api/worker/{id}/tunnels
    get /api/tunnels ?after=0&wait=1
    get /health/circuits/{circuit_id}
    get /api/circuit/{id} ?health=1
    patch /api/worker/{id}
    get /api/worker/{id}/circuits
    get /v1/api/worker
    get /api/circuit/{id}
    get /api/circuit/{id}/statistics
    get /api/slots ?in_use=false
    get /v1/api/slots
    post /v2/conf
    post /v2/endpoints/bulk
    post /v2/endpoints/bulk/routes
    post /v2/endpoints/bulk/routes/register
    post /v2/endpoints/bulk/routes/unregister
    get /health/endpoints
    put /v2/endpoints/{id}/health-check
    post /v2/endpoints/{id}/token
    delete /v2/endpoints/bulk
    delete /v1/api/circuit/{id}
    delete /routes ?session_id=6f0a7a52-6c2e-4a56-8f3c-2f1a0f4c9d01
    put /api/services/{name}
    get /api/services/{name}
    get /api/services
    delete /api/services/{name}
    get /api/services/_/audit ?limit=1&service=shop";

/// A path with the ids of what there is.
fn target(path: &str, worker: &str, circuit: &str) -> String {
    let id = match path {
        path if path.starts_with("/api/worker/") => worker,
        path if path.starts_with("/v2/endpoints/") => ENDPOINT,
        _ => circuit,
    };
    let path = path.replace("{id}", id).replace("{circuit_id}", id);
    path.replace("{name}", "shop")
}

/// A body that a call succeeds with, if there is one: with this circuit, where it has to name one.
pub(crate) fn sent(method: &str, path: &str, circuit: &str) -> Option<Value> {
    if path.starts_with("/v2/endpoints/") {
        return sent_of_endpoint(method, path);
    }
    let id = ENDPOINT;
    Some(match (method, path) {
        ("put", "/routes/{id}") => json!({"kernel_host": "10.10.0.5", "kernel_port": 30730}),
        ("put", "/api/services/{name}") => json!({
            "service": {"instances": ["10.10.0.5:80"]}, "routes": {"shop": {"path": "/shop/*"}},
        }),
        ("post", "/workers/register") | ("put", "/api/worker") => port_worker("w1", 10_300, 10_303),
        ("post", "/routes") => json!({"session_id": SESSION, "service": "tensorboard",
            "kernel_host": "10.10.0.5", "kernel_port": 30730, "protocol": "http",
            "user_id": SESSION, "envs": {"A": "b"}, "args": "--x", "open_to_public": true,
            "allowed_client_ips": "10.0.0.0/8", "port": 10_302, "worker": "w1",
            "project_id": id, "access_key": "AK", "domain_name": "default"}),
        ("post", "/v2/proxy/auth") => with(
            conf(),
            &json!({"app": "vnc", "protocol": "tcp", "envs": {"A": "b"}, "args": "--x",
                "open_to_public": true, "allowed_client_ips": "10.0.0.0/8", "redirect": "/lab",
                "no_reuse": true, "port": 10_302, "subdomain": "vnc"}),
        ),
        ("post", "/api/worker/{id}/acknowledgements") => json!({"generation": 1}),
        ("delete", "/api/circuit/_/bulk") => json!({"circuit_ids": [circuit, SESSION]}),
        ("post", "/api/circuit/{id}/revocations") => json!({"all": true}),
        ("post", "/api/v1/route") => json!({"session_id": SESSION, "app": "jupyter"}),
        ("post", "/api/worker/{id}/route-health") => {
            json!({"circuits": [{"circuit": circuit, "routes": 1, "down": [{
                "session": id, "address": "10.10.0.5:30730", "since": "2026-11-20T15:36:50Z",
                "error": "it refuses connections"}]}]})
        }
        ("post", "/api/worker/{id}/uses") => json!({"complete": true, "circuits": [
            {"circuit": circuit, "last": "2026-11-20T15:36:50Z", "requests": 2}]}),
        ("post", "/api/worker/{id}/tunnels") => json!({
            "relay": {"url": "http://10.0.0.1:8080", "key": "made-up"},
            "tunnels": [{"tunnel": "web", "agent": "laptop", "kind": "http"}],
        }),
        ("post", "/v2/conf") => conf(),
        _ => return None,
    })
}

/// An object with more fields.
fn with(mut object: Value, more: &Value) -> Value {
    let more = more.as_object().unwrap().clone();
    object.as_object_mut().unwrap().extend(more);
    object
}

/// As [`sent`], for calls about endpoints.
fn sent_of_endpoint(method: &str, path: &str) -> Option<Value> {
    let id = ENDPOINT;
    let of_endpoint = |more| json!({"endpoints": [with(json!({"deployment_id": id}), &more)]});
    let opening = json!({
        "service_name": "llm", "open_to_public": false,
        "tags": {"session": {"user_uuid": id, "project_id": id, "domain_name": "default"},
            "endpoint": {"id": id, "runtime_variant": "vllm", "existing_url": null}},
        "health_check": {"enable": true, "interval": 10.0, "path": "/health", "max_retries": 10,
            "max_wait_time": 15.0, "expected_status_code": 200, "initial_delay": 60.0},
    });
    Some(match (method, path) {
        ("post", "/v2/endpoints/bulk") => of_endpoint(opening),
        ("delete", "/v2/endpoints/bulk") => of_endpoint(json!({})),
        ("post", "/v2/endpoints/bulk/routes/unregister") => of_endpoint(json!({"route_ids": [id]})),
        ("post", "/v2/endpoints/bulk/routes" | "/v2/endpoints/bulk/routes/register") => {
            of_endpoint(json!({"routes": [{"session_id": id, "route_id": id,
                "kernel_host": "10.0.0.1", "kernel_port": 8000}]}))
        }
        ("post", "/v2/endpoints/{id}") => with(opening, &json!({"version": "v2"})),
        ("put", "/v2/endpoints/{id}/health-check") => json!({"health_check": null}),
        ("post", "/v2/endpoints/{id}/token") => {
            json!({"user_uuid": id, "exp": "2030-01-01T00:00:00Z"})
        }
        _ => return None,
    })
}

#[tokio::test]
async fn answers_look_as_the_document_says() {
    let desk = Desk::open().await;
    let document = document(&desk).await;
    let worker = desk
        .serving_worker(port_worker("w1", 10_300, 10_303))
        .await
        .to_string();
    let mut wildcard = wildcard_worker("w2");
    wildcard["accepted_traffics"] = json!(["inference"]);
    desk.serving_worker(wildcard).await;
    let token = desk.token().await;
    desk.auth(&token, "&app=jupyter&protocol=http")
        .await
        .expect(200);
    let held = desk
        .get(&format!("/api/worker/{worker}/circuits"))
        .await
        .json();
    let circuit = held["circuits"][0]["id"].as_str().unwrap();
    for line in CALLS.lines() {
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let query = words.next().unwrap_or_default();
        let verb = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let target = format!("{}{query}", target(path, &worker, circuit));
        let answer = desk.call(verb, &target, sent(method, path, circuit)).await;
        let answer = answer.expect(200).json();
        let operation = &document["paths"][path][method];
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path} is not described");
        let wrong = misfit(&document, schema, &answer, "");
        assert_eq!(wrong, None, "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn people_get_a_page() {
    let desk = Desk::open().await;
    let request = bare(Method::GET, "/docs").body(Body::empty()).unwrap();
    let page = desk.send(request).await.expect(200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(
        page.header("content-security-policy")
            .starts_with("default-src 'none'")
    );
    assert!(page.text.contains("openapi.json"));
}
