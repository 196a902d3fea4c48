//! Whatever is sent to whichever route, the answer is one of the API's, and the API goes on.

use http::Method;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::desk::{Desk, SESSION, port_worker, trusted};
use crate::openapi::{document, sent};

/// Routes that read a body or a query, with the methods they take.
const ROUTES: &[(&str, &str)] = &[
    ("POST", "/v2/conf"),
    ("POST", "/v2/proxy/auth"),
    ("GET", "/v2/proxy/auth"),
    ("PUT", "/api/worker"),
    ("POST", "/workers/register"),
    ("POST", "/routes"),
    ("GET", "/routes"),
    ("DELETE", "/routes"),
    ("PUT", "/routes/{id}"),
    ("GET", "/api/audit"),
    ("GET", "/api/slots"),
    ("DELETE", "/api/circuit/_/bulk"),
    ("POST", "/api/worker/{id}/acknowledgements"),
    ("POST", "/api/worker/{id}/route-health"),
    ("POST", "/api/worker/{id}/uses"),
    ("POST", "/api/v1/route"),
    ("POST", "/v2/endpoints/bulk"),
    ("DELETE", "/v2/endpoints/bulk"),
    ("POST", "/v2/endpoints/bulk/routes"),
    ("POST", "/v2/endpoints/bulk/routes/register"),
    ("POST", "/v2/endpoints/bulk/routes/unregister"),
    ("POST", "/v2/endpoints/{id}"),
    ("PUT", "/v2/endpoints/{id}/health-check"),
    ("POST", "/v2/endpoints/{id}/token"),
];

/// Every field that some route reads.
const FIELDS: &[&str] = &[
    "app",
    "protocol",
    "token",
    "session_id",
    "session",
    "id",
    "user_uuid",
    "group_id",
    "project_id",
    "access_key",
    "domain_name",
    "login_session_token",
    "kernel_host",
    "kernel_port",
    "envs",
    "args",
    "open_to_public",
    "allowed_client_ips",
    "redirect",
    "no_reuse",
    "port",
    "subdomain",
    "authority",
    "frontend_mode",
    "hostname",
    "tls_listen",
    "tls_advertised",
    "api_port",
    "accepted_traffics",
    "filtered_apps_only",
    "app_filters",
    "port_range",
    "wildcard_domain",
    "wildcard_traffic_port",
    "node_id",
    "service",
    "worker",
    "user_id",
    "circuit",
    "action",
    "since",
    "until",
    "limit",
    "cursor",
    "circuit_ids",
    "generation",
    "endpoints",
    "deployment_id",
    "endpoint_ids",
    "service_name",
    "tags",
    "endpoint",
    "routes",
    "route_ids",
    "route_id",
    "health_check",
    "interval",
    "path",
    "max_retries",
    "exp",
    "runtime_variant",
    "existing_url",
];

/// Values that are nearly right, or far from it.
fn leaf() -> impl Strategy<Value = Value> {
    let known = [
        json!(null),
        json!(SESSION),
        json!("http"),
        json!("tcp"),
        json!("port"),
        json!("wildcard"),
        json!("interactive"),
        json!(["inference"]),
        json!([20000, 20009]),
        json!([9, 8]),
        json!("127.0.0.1"),
        json!(".app.local"),
        json!("w1"),
        json!("on"),
        json!(true),
        json!("2026-11-20T15:36:50Z"),
        json!("\u{0}"),
        json!("x".repeat(300)),
        json!("한글"),
        json!({"A": "\u{0}"}),
        json!("http://"),
        json!("10.0.0.0/8, x"),
        json!(""),
    ];
    prop_oneof![
        4 => prop::sample::select(known.to_vec()),
        1 => any::<bool>().prop_map(Value::from),
        2 => any::<i64>().prop_map(Value::from),
        1 => (0_u32..70_000).prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => ".{0,20}".prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            object(inner),
        ]
    })
}

fn object(inner: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Value> {
    let field = prop::sample::select(FIELDS).prop_map(str::to_owned);
    let fields = prop::collection::vec((field, inner), 0..24);
    fields.prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()))
}

/// A change of one place in a body.
#[derive(Clone, Debug)]
enum Damage {
    /// Something else stands there.
    Other(Value),
    /// It is absent.
    Absent,
    /// It is there twice, in a list.
    Twice,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => value().prop_map(Damage::Other),
        1 => Just(Damage::Absent),
        1 => Just(Damage::Twice),
    ]
}

/// All places in a body: the body itself, its fields, theirs.
fn places(body: &Value, place: &str, all: &mut Vec<String>) {
    all.push(place.to_owned());
    match body {
        Value::Object(map) => {
            for (key, value) in map {
                places(value, &format!("{place}/{key}"), all);
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                places(item, &format!("{place}/{number}"), all);
            }
        }
        _ => {}
    }
}

fn suffer(body: &mut Value, place: usize, damage: Damage) {
    let mut all = Vec::new();
    places(body, "", &mut all);
    let place = &all[place % all.len()];
    let (parent, key) = place.rsplit_once('/').unwrap_or_default();
    match (damage, body.pointer_mut(parent)) {
        (Damage::Other(value), _) => {
            if let Some(there) = body.pointer_mut(place) {
                *there = value;
            }
        }
        (Damage::Absent, Some(Value::Object(map))) => {
            map.remove(key);
        }
        (Damage::Twice, Some(Value::Array(items))) => items.extend(items.clone()),
        _ => {}
    }
}

/// The calls that the document says take a body, each with one that is right.
async fn right_bodies(desk: &Desk) -> Vec<(Method, String, Value)> {
    let document = document(desk).await;
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if operation.get("requestBody").is_none() {
                continue;
            }
            let body = sent(method, path, SESSION);
            let body = body.unwrap_or_else(|| panic!("{method} {path} has no example here"));
            all.push((method.to_uppercase().parse().unwrap(), path.clone(), body));
        }
    }
    assert!(all.len() > 15, "{} calls take a body", all.len());
    all
}

async fn survives(desk: &Desk, method: &Method, path: &str, body: &Value) {
    let path = path.replace("{id}", SESSION).replace("{name}", "shop");
    let request = trusted(method.clone(), &path, Some(body.clone()));
    let status = desk.send(request).await.status.as_u16();
    // A worker that does not answer in time is what this desk has: 503 is right.
    assert!(
        status < 500 || status == 503,
        "{method} {path} {body}: {status}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_body_that_is_nearly_right_brings_the_api_down(
        damages in prop::collection::vec((0_usize..200, damage()), 1..4)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let desk = Desk::patient(std::time::Duration::from_millis(1)).await;
            desk.silent_worker(port_worker("w1", 10_300, 10_303)).await;
            for (method, path, mut body) in right_bodies(&desk).await {
                for (place, damage) in damages.clone() {
                    suffer(&mut body, place, damage);
                }
                survives(&desk, &method, &path, &body).await;
            }
            desk.get("/status").await.expect(200);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn no_body_brings_the_api_down(
        calls in prop::collection::vec((prop::sample::select(ROUTES), object(value())), 1..6)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let desk = Desk::patient(std::time::Duration::from_millis(1)).await;
            desk.silent_worker(port_worker("w1", 20000, 20009)).await;
            for ((method, path), body) in calls {
                survives(&desk, &method.parse().unwrap(), path, &body).await;
            }
            desk.get("/status").await.expect(200);
        });
    }
}
