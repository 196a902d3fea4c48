//! The API's document is true: what it says of methods, of credentials and of answers is what the
//! router does.

use std::collections::BTreeSet;

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::desk::{Desk, bare, conf, port_worker, wildcard_worker};

async fn document(desk: &Desk) -> Value {
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

#[tokio::test]
async fn answers_look_as_the_document_says() {
    let desk = Desk::open().await;
    let document = document(&desk).await;
    let port = desk.serving_worker(port_worker("w1", 10_300, 10_303)).await;
    let mut wildcard = wildcard_worker("w2");
    wildcard["accepted_traffics"] = json!(["inference"]);
    desk.serving_worker(wildcard).await;
    let token = desk.token().await;
    desk.auth(&token, "&app=jupyter&protocol=http")
        .await
        .expect(200);
    let held = desk
        .get(&format!("/api/worker/{port}/circuits"))
        .await
        .json();
    let circuit = held["circuits"][0]["id"].as_str().unwrap().to_owned();
    let id = "aaaaaaaa-0000-4000-8000-000000000001";
    let item = json!({
        "deployment_id": id, "service_name": "llm",
        "tags": {"session": {"user_uuid": id, "project_id": id, "domain_name": "default"},
            "endpoint": {"id": id, "runtime_variant": "vllm", "existing_url": null}},
        "health_check": {"enable": true, "path": "/health"},
    });
    let routes = json!({"endpoints": [{"deployment_id": id, "routes": [
        {"session_id": id, "route_id": id, "kernel_host": "10.0.0.1", "kernel_port": 8000}]}]});
    let dropped = json!({"endpoints": [{"deployment_id": id, "route_ids": [id]}]});
    let ids = json!({"endpoints": [{"deployment_id": id}]});
    let report = json!({"circuits": [{"circuit": circuit, "routes": 1, "down": [{
        "session": id, "address": "10.10.0.5:30729", "since": "2026-11-20T15:36:50Z",
        "error": "it refuses connections"}]}]});
    let one = format!("/v2/endpoints/{id}");
    let calls = [
        ("get", "/status", "/status".to_owned(), None),
        ("get", "/health", "/health".into(), None),
        ("get", "/health/status", "/health/status".into(), None),
        ("get", "/openapi.json", "/openapi.json".into(), None),
        ("get", "/api/worker", "/api/worker".into(), None),
        (
            "get",
            "/api/worker/{id}",
            format!("/api/worker/{port}"),
            None,
        ),
        ("get", "/health/summary", "/health/summary".into(), None),
        ("get", "/api/audit", "/api/audit?limit=1".into(), None),
        (
            "post",
            "/api/worker/{id}/route-health",
            format!("/api/worker/{port}/route-health"),
            Some(report),
        ),
        (
            "get",
            "/health/circuits/{circuit_id}",
            format!("/health/circuits/{circuit}"),
            None,
        ),
        (
            "get",
            "/api/circuit/{id}",
            format!("/api/circuit/{circuit}?health=1"),
            None,
        ),
        (
            "patch",
            "/api/worker/{id}",
            format!("/api/worker/{port}"),
            None,
        ),
        (
            "get",
            "/api/worker/{id}/circuits",
            format!("/api/worker/{port}/circuits"),
            None,
        ),
        ("get", "/v1/api/worker", "/v1/api/worker".into(), None),
        (
            "get",
            "/api/circuit/{id}",
            format!("/api/circuit/{circuit}"),
            None,
        ),
        (
            "get",
            "/api/circuit/{id}/statistics",
            format!("/api/circuit/{circuit}/statistics"),
            None,
        ),
        ("get", "/api/slots", "/api/slots?in_use=false".into(), None),
        ("get", "/v1/api/slots", "/v1/api/slots".into(), None),
        ("post", "/v2/conf", "/v2/conf".into(), Some(conf())),
        (
            "post",
            "/v2/endpoints/bulk",
            "/v2/endpoints/bulk".into(),
            Some(json!({"endpoints": [item]})),
        ),
        (
            "post",
            "/v2/endpoints/bulk/routes",
            "/v2/endpoints/bulk/routes".into(),
            Some(routes.clone()),
        ),
        (
            "post",
            "/v2/endpoints/bulk/routes/register",
            "/v2/endpoints/bulk/routes/register".into(),
            Some(routes),
        ),
        (
            "post",
            "/v2/endpoints/bulk/routes/unregister",
            "/v2/endpoints/bulk/routes/unregister".into(),
            Some(dropped),
        ),
        ("get", "/health/endpoints", "/health/endpoints".into(), None),
        (
            "put",
            "/v2/endpoints/{id}/health-check",
            format!("{one}/health-check"),
            Some(json!({"health_check": null})),
        ),
        (
            "post",
            "/v2/endpoints/{id}/token",
            format!("{one}/token"),
            Some(json!({"user_uuid": id, "exp": "2030-01-01T00:00:00Z"})),
        ),
        (
            "delete",
            "/v2/endpoints/bulk",
            "/v2/endpoints/bulk".into(),
            Some(ids),
        ),
        (
            "delete",
            "/v1/api/circuit/{id}",
            format!("/v1/api/circuit/{circuit}"),
            None,
        ),
    ];
    for (method, path, target, body) in calls {
        let verb = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let answer = desk.call(verb, &target, body).await.expect(200).json();
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
