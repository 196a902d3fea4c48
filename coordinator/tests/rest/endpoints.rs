//! Inference endpoints as the Manager handles them.

use std::time::Duration;

use http::Method;
use patchbay_common::token::TokenKey;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::desk::{Desk, JWT_SECRET, port_worker, wildcard_worker};

const USER: &str = "1d6c0f9e-0f5b-4c36-9a77-1f0e3c2b1a10";

fn inference(mut worker: Value) -> Value {
    worker["accepted_traffics"] = json!(["inference"]);
    worker
}

fn item(id: Uuid, name: &str) -> Value {
    json!({
        "deployment_id": id, "version": "v2", "service_name": name,
        "tags": {
            "session": {
                "user_uuid": USER, "project_id": "2f4a9c11-5d5e-4a0a-8d8e-0a1b2c3d4e5f",
                "domain_name": "default"
            },
            "endpoint": {"id": id, "runtime_variant": "vllm", "existing_url": null}
        },
        "open_to_public": false,
        "health_check": {"enable": true, "path": "/health"}
    })
}

fn existing(id: Uuid, name: &str, url: &str) -> Value {
    let mut item = item(id, name);
    item["tags"]["endpoint"]["existing_url"] = url.into();
    item
}

fn list(items: impl IntoIterator<Item = Value>) -> Value {
    json!({"endpoints": items.into_iter().collect::<Vec<_>>()})
}

fn urls(answer: &Value) -> Vec<&str> {
    let entries = answer["endpoints"].as_array().unwrap().iter();
    entries
        .map(|entry| entry["url"].as_str().unwrap())
        .collect()
}

async fn open(desk: &Desk, items: &[Value]) -> Value {
    let answer = desk.post("/v2/endpoints/bulk", list(items.to_vec())).await;
    answer.expect(200).json()
}

async fn circuits(desk: &Desk, worker: impl std::fmt::Display) -> Vec<Value> {
    let answer = desk.get(&format!("/api/worker/{worker}/circuits")).await;
    answer.expect(200).json()["circuits"]
        .as_array()
        .unwrap()
        .clone()
}

#[tokio::test]
async fn many_endpoints_open_in_their_order_and_once() {
    let desk = Desk::open().await;
    let mut registration = inference(wildcard_worker("w"));
    registration["tls_advertised"] = false.into();
    let worker = desk.serving_worker(registration).await;
    let ids: Vec<Uuid> = (0..40).map(|_| Uuid::new_v4()).collect();
    let items: Vec<Value> = ids.iter().map(|id| item(*id, "My LLM")).collect();
    let answer = open(&desk, &items).await;
    let named: Vec<String> = answer["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["deployment_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(named, ids.iter().map(Uuid::to_string).collect::<Vec<_>>());
    assert_eq!(urls(&answer)[0], "http://my-llm.app.local:10250/");
    assert_eq!(answer["endpoints"][0]["health_check_enabled"], true);
    assert_eq!(
        open(&desk, &items).await,
        answer,
        "a second call changes nothing"
    );

    let held = circuits(&desk, worker).await;
    assert_eq!(held.len(), ids.len());
    let circuit = held
        .iter()
        .find(|c| c["endpoint_id"] == ids[0].to_string())
        .unwrap();
    for (key, value) in [
        ("app", json!("My LLM")),
        ("app_mode", json!("inference")),
        ("runtime_variant", json!("vllm")),
        ("user_id", json!(USER)),
        ("route_info", json!([])),
        ("session_ids", json!([])),
    ] {
        assert_eq!(circuit[key], value, "{key}");
    }
}

#[tokio::test]
async fn a_known_url_stays_where_it_is() {
    let desk = Desk::open().await;
    desk.serving_worker(inference(wildcard_worker("wild")))
        .await;
    let mut ports = inference(port_worker("ports", 20000, 20009));
    ports["hostname"] = "gpu.example.com".into();
    desk.serving_worker(ports).await;
    let [a, b, c] = [(); 3].map(|()| Uuid::new_v4());
    let items = [
        existing(a, "x", "https://old-name.APP.local:10250/v1"),
        existing(b, "y", "http://gpu.example.com:20007/"),
        existing(c, "z", "http://elsewhere.example.com/"),
    ];
    let answer = open(&desk, &items).await;
    assert_eq!(
        urls(&answer),
        [
            "https://old-name.app.local:10250/",
            "http://gpu.example.com:20007/",
            "https://z.app.local:10250/"
        ]
    );
    let taken = list([existing(
        Uuid::new_v4(),
        "y",
        "http://gpu.example.com:20007/",
    )]);
    desk.post("/v2/endpoints/bulk", taken).await.expect(409);
    let mute = list([
        item(Uuid::new_v4(), "ok"),
        existing(Uuid::new_v4(), "y", "unix:/x"),
    ]);
    let refused = desk
        .post("/v2/endpoints/bulk", mute)
        .await
        .expect(400)
        .json();
    assert_eq!(refused["title"], "Invalid URL.");
    assert_eq!(
        desk.get("/api/slots").await.json()["slots"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test]
async fn routes_are_registered_replaced_and_dropped() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(inference(wildcard_worker("w"))).await;
    let (id, stranger) = (Uuid::new_v4(), Uuid::new_v4());
    open(&desk, &[item(id, "svc")]).await;
    let mut feed = desk.listen(worker, Some(1)).await;
    let route = Uuid::new_v4();
    let routes = |port: u16| {
        json!([{
            "session_id": Uuid::nil(), "route_id": route, "kernel_host": "10.10.0.6",
            "kernel_port": port
        }])
    };
    let body = list([
        json!({"deployment_id": stranger, "routes": routes(1)}),
        json!({"endpoint_id": id, "routes": routes(30800)}),
    ]);
    let path = "/v2/endpoints/bulk/routes/register";
    let answer = desk.post(path, body.clone()).await.expect(200);
    let refusal = "No circuit registered for this endpoint yet.";
    let expected = json!({"endpoints": [
        {"deployment_id": stranger, "success": false, "registered_route_ids": [],
         "already_registered_route_ids": [], "error": refusal},
        {"deployment_id": id, "success": true, "registered_route_ids": [route],
         "already_registered_route_ids": [], "error": null},
    ]});
    assert_eq!(answer.json(), expected);
    let again = desk.post(path, body).await.expect(200).json();
    assert_eq!(
        again["endpoints"][1]["already_registered_route_ids"],
        json!([route])
    );

    let body = list([json!({"deployment_id": id, "routes": routes(30801)})]);
    let answer = desk
        .post("/v2/endpoints/bulk/routes", body)
        .await
        .expect(200);
    assert_eq!(
        answer.text,
        format!(
            r#"{{"endpoints": [{{"deployment_id": "{id}", "success": true, "error": null}}]}}"#
        )
    );
    let body = list([json!({"deployment_id": id, "route_ids": [route, stranger]})]);
    let answer = desk
        .post("/v2/endpoints/bulk/routes/unregister", body)
        .await;
    let entry = &answer.expect(200).json()["endpoints"][0];
    assert_eq!(entry["unregistered_route_ids"], json!([route]));
    assert_eq!(entry["already_absent_route_ids"], json!([stranger]));

    let mut told = Vec::new();
    while told.len() < 3 {
        let event = feed.next().await;
        if event.name == "appproxy_circuit_route_updated_event" {
            told.push((event.id, event.data["routes"][0]["kernel_port"].clone()));
        }
    }
    let expected = [
        (Some(2), json!(30800)),
        (Some(3), json!(30801)),
        (Some(4), Value::Null),
    ];
    assert_eq!(
        told, expected,
        "one event for each change, none for the repetition"
    );
}

#[tokio::test]
async fn a_route_that_makes_no_sense_is_named() {
    let desk = Desk::open().await;
    let (id, path) = (Uuid::new_v4(), "/v2/endpoints/bulk/routes/register");
    let wrong = list([json!({"deployment_id": id, "routes": [{"kernel_port": 0}]})]);
    let refused = desk.post(path, wrong).await.expect(400).json();
    let places = refused["data"]["errors"].as_array().unwrap().iter();
    let places: Vec<&Value> = places.map(|error| &error["loc"]).collect();
    assert!(
        places.contains(&&json!(["endpoints", 0, "routes", 0, "kernel_port"])),
        "{places:?}"
    );
}

#[tokio::test]
async fn what_nobody_serves_is_undone_and_the_rest_stays() {
    let desk = Desk::patient(Duration::from_millis(300)).await;
    let mut silent = inference(port_worker("silent", 20000, 20009));
    silent["hostname"] = "silent.example.com".into();
    let silent = desk.silent_worker(silent).await;
    let served = desk
        .serving_worker(inference(wildcard_worker("served")))
        .await;
    let items = [
        existing(Uuid::new_v4(), "a", "http://silent.example.com:20003/"),
        item(Uuid::new_v4(), "b"),
        existing(Uuid::new_v4(), "c", "http://silent.example.com:20004/"),
    ];
    let answer = desk
        .post("/v2/endpoints/bulk", list(items))
        .await
        .expect(503)
        .json();
    assert_eq!(answer["msg"], "E10001: Proxy worker not responding");
    assert_eq!(answer["data"], json!({"worker": "silent"}));
    assert_eq!(circuits(&desk, silent).await.len(), 0);
    assert_eq!(circuits(&desk, served).await.len(), 1);
}

#[tokio::test]
async fn one_endpoint_lives_and_dies_by_its_own_path() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(inference(wildcard_worker("w"))).await;
    let id = Uuid::new_v4();
    let path = format!("/v2/endpoints/{id}");
    let health = format!("{path}/health-check");
    let put = |body: Value| desk.call(Method::PUT, &health, Some(body));
    let missing = put(json!({"health_check": null})).await.expect(404).json();
    assert_eq!(missing["title"], "E00002: No such circuit.");
    let answer = desk.post(&path, item(id, "svc")).await.expect(200);
    let expected = json!({
        "success": true, "endpoint": "https://svc.app.local:10250/", "health_check_enabled": true
    });
    assert_eq!(answer.json(), expected);
    put(json!({"health_check": null})).await.expect(200);
    put(json!({"health_check": {"interval": 5, "expected_status_code": 204}}))
        .await
        .expect(200);
    put(json!({})).await.expect(400);
    put(json!({"health_check": {"expected_status_code": 100}}))
        .await
        .expect(400);

    for _ in 0..2 {
        let answer = desk.call(Method::DELETE, &path, None).await.expect(200);
        assert_eq!(answer.text, r#"{"success": true}"#);
    }
    let gone = list([json!({"deployment_id": id})]);
    let answer = desk
        .call(Method::DELETE, "/v2/endpoints/bulk", Some(gone))
        .await
        .expect(200);
    let expected = json!({"endpoints": [{"deployment_id": id, "success": true, "error": null}]});
    assert_eq!(answer.json(), expected);
    assert_eq!(circuits(&desk, worker).await.len(), 0);
}

#[tokio::test]
async fn a_token_carries_its_circuit() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(inference(wildcard_worker("w"))).await;
    let id = Uuid::new_v4();
    let path = format!("/v2/endpoints/{id}");
    open(&desk, &[item(id, "svc")]).await;
    let circuit = circuits(&desk, worker).await.remove(0);
    let token_path = format!("{path}/token");
    let ask = json!({"user_uuid": USER, "exp": "2030-01-01T00:00:00Z"});
    let token = desk.post(&token_path, ask.clone()).await.expect(200).json();
    let claims: Value = TokenKey::new(JWT_SECRET)
        .verify(token["token"].as_str().unwrap())
        .unwrap();
    assert_eq!(claims["id"], circuit["id"]);
    assert_eq!(claims["exp"], 1_893_456_000);
    assert_eq!(claims["app_url"], "https://svc.app.local:10250");
    assert_eq!(claims["user"], USER);
    assert!(claims["created_at"].is_f64());
    let mut keys: Vec<&str> = claims
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "allowed_client_ips",
            "app",
            "app_mode",
            "app_url",
            "arguments",
            "created_at",
            "endpoint_id",
            "envs",
            "exp",
            "frontend_mode",
            "id",
            "jti",
            "open_to_public",
            "port",
            "protocol",
            "runtime_variant",
            "session_ids",
            "subdomain",
            "updated_at",
            "user",
            "user_id",
            "worker"
        ]
    );
    desk.call(Method::DELETE, &path, None).await.expect(200);
    desk.post(&token_path, ask).await.expect(404);
}

#[tokio::test]
async fn without_a_credential_nothing_happens() {
    let desk = Desk::open().await;
    for (method, path) in [
        (Method::POST, "/v2/endpoints/bulk"),
        (Method::DELETE, "/v2/endpoints/bulk"),
        (Method::POST, "/v2/endpoints/bulk/routes"),
        (Method::POST, "/v2/endpoints/bulk/routes/register"),
        (Method::POST, "/v2/endpoints/bulk/routes/unregister"),
        (Method::POST, "/v2/endpoints/x"),
        (Method::DELETE, "/v2/endpoints/x"),
        (Method::PUT, "/v2/endpoints/x/health-check"),
        (Method::POST, "/v2/endpoints/x/token"),
        (Method::DELETE, "/api/circuit/_/bulk"),
        (Method::GET, "/api/slots"),
        (Method::GET, "/v1/api/worker"),
        (Method::GET, "/v1/api/slots"),
        (Method::DELETE, "/v1/api/circuit/x"),
    ] {
        let request = crate::desk::bare(method, path).body("{".into()).unwrap();
        desk.send(request).await.expect(401);
    }
}
