//! `/routes` and `/workers`: circuits and workers by their second names.

use http::Method;
use serde_json::{Value, json};

use crate::desk::{Answer, Desk, SESSION, bare, port_worker, wildcard_worker};

const OTHER: &str = "6f0a7a52-6c2e-4a56-8f3c-2f1a0f4c9d02";

fn route(service: &str, port: u16) -> Value {
    json!({
        "session_id": SESSION, "service": service, "kernel_host": "10.10.0.5",
        "kernel_port": port
    })
}

fn with(mut body: Value, key: &str, value: impl Into<Value>) -> Value {
    body[key] = value.into();
    body
}

async fn create(desk: &Desk, body: Value) -> Answer {
    desk.post("/routes", body).await
}

async fn listed(desk: &Desk, query: &str) -> Vec<Value> {
    let page = desk.get(&format!("/routes{query}")).await.expect(200);
    page.json()["routes"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_route_is_a_circuit_by_another_name() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let made = create(&desk, route("jupyter", 8888))
        .await
        .expect(201)
        .json();
    let id = made["id"].as_str().unwrap();
    assert_eq!(made["session_id"], SESSION);
    assert_eq!(made["service"], "jupyter");
    assert_eq!(
        (&made["kernel_host"], &made["kernel_port"]),
        (&json!("10.10.0.5"), &json!(8888))
    );
    assert_eq!(made["url"], "http://127.0.0.1:20000");
    let host = json!({"id": worker, "authority": "w1", "available": true});
    assert_eq!(made["worker"], host);
    let setup = made["setup_url"].as_str().unwrap();
    assert!(
        setup.starts_with("http://127.0.0.1:10201/setup?token="),
        "{setup}"
    );

    let circuit = desk
        .get(&format!("/api/circuit/{id}"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&circuit["app"], &circuit["port"]),
        (&json!("jupyter"), &json!(20000))
    );
    let again = create(&desk, route("jupyter", 8888))
        .await
        .expect(200)
        .json();
    assert_eq!(again["id"], id);
    // Whoever opens it with a token shares it.
    let token = desk.token().await;
    desk.auth(&token, "&app=jupyter&protocol=http")
        .await
        .expect(200);
    assert_eq!(listed(&desk, "").await.len(), 1);

    let path = format!("/routes/{id}");
    let moved = json!({"kernel_host": "10.10.0.6", "kernel_port": 9999});
    let answer = desk.call(Method::PUT, &path, Some(moved)).await.expect(200);
    assert_eq!(answer.json()["kernel_host"], "10.10.0.6");
    let shown = desk.get(&path).await.expect(200).json();
    assert_eq!(shown["kernel_port"], 9999);
    assert_eq!(
        shown.get("setup_url"),
        None,
        "a key is not shown to everyone who looks"
    );
    desk.call(Method::DELETE, &path, None).await.expect(200);
    desk.get(&path).await.expect(404);
    desk.call(Method::DELETE, &path, None).await.expect(404);
    its_life_is_in_the_audit(&desk, id).await;
}

async fn its_life_is_in_the_audit(desk: &Desk, id: &str) {
    let audit = desk
        .get(&format!("/api/audit?circuit={id}"))
        .await
        .expect(200)
        .json();
    let actions: Vec<_> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["action"])
        .collect();
    assert_eq!(actions, ["closed", "rerouted", "opened"]);
    assert_eq!(audit["entries"][1]["detail"], "10.10.0.6:9999");
}

#[tokio::test]
async fn conflicts_name_the_holder() {
    let desk = Desk::open().await;
    desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let wished = with(route("jupyter", 8888), "port", 20005);
    let made = create(&desk, wished).await.expect(201).json();
    assert_eq!(made["port"], 20005);
    let holder = |answer: Answer| answer.expect(409).json()["data"]["holder"]["id"].clone();

    let taken = with(with(route("vscode", 1), "port", 20005), "session_id", OTHER);
    assert_eq!(holder(create(&desk, taken).await), made["id"]);
    let elsewhere = create(&desk, route("jupyter", 8889)).await;
    assert_eq!(holder(elsewhere), made["id"]);
    let public = with(route("jupyter", 8888), "open_to_public", true);
    assert_eq!(holder(create(&desk, public).await), made["id"]);
    let nowhere = with(route("vscode", 1), "port", 30000);
    create(&desk, nowhere).await.expect(409);

    desk.serving_worker(wildcard_worker("w2")).await;
    let named = with(
        with(route("vscode", 1), "subdomain", "Notes"),
        "worker",
        "w2",
    );
    let made = create(&desk, named.clone()).await.expect(201).json();
    assert_eq!(made["subdomain"], "notes");
    let taken = with(named, "session_id", OTHER);
    assert_eq!(holder(create(&desk, taken).await), made["id"]);
    assert_eq!(listed(&desk, "").await.len(), 2);
}

#[tokio::test]
async fn routes_are_filtered_and_paged() {
    let desk = Desk::open().await;
    desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    desk.serving_worker(wildcard_worker("w2")).await;
    for (service, worker) in [("a", "w1"), ("b", "w1"), ("c", "w2")] {
        let body = with(route(service, 80), "worker", worker);
        create(&desk, body).await.expect(201);
    }
    let body = with(route("a", 80), "session_id", OTHER);
    create(&desk, body).await.expect(201);
    assert_eq!(listed(&desk, "?service=a").await.len(), 2);
    assert_eq!(
        listed(&desk, &format!("?session_id={SESSION}")).await.len(),
        3
    );
    assert_eq!(
        listed(&desk, &format!("?session_id={OTHER}&service=b"))
            .await
            .len(),
        0
    );
    assert_eq!(listed(&desk, "?worker=w1&service=b").await.len(), 1);
    desk.get("/routes?worker=nobody").await.expect(404);
    let mut seen = 0;
    let mut cursor = String::new();
    loop {
        let path = format!("/routes?limit=3{cursor}");
        let page = desk.get(&path).await.expect(200).json();
        seen += page["routes"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, 4);
}

#[tokio::test]
async fn a_session_ends_with_all_it_had() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    for service in ["a", "b"] {
        create(&desk, route(service, 80)).await.expect(201);
    }
    let other = with(route("a", 80), "session_id", OTHER);
    create(&desk, other).await.expect(201);
    let token = desk.token().await;
    let mut feed = desk.listen(worker, None).await;
    assert_eq!(feed.next().await.name, "hello");

    let path = format!("/routes?session_id={SESSION}");
    let answer = desk.call(Method::DELETE, &path, None).await.expect(200);
    assert_eq!(answer.json()["closed"], 2);
    for _ in 0..2 {
        assert_eq!(feed.next().await.name, "appproxy_circuit_removed_event");
    }
    assert_eq!(
        listed(&desk, &format!("?session_id={SESSION}")).await.len(),
        0
    );
    assert_eq!(
        listed(&desk, &format!("?session_id={OTHER}&service=a"))
            .await
            .len(),
        1
    );
    desk.auth(&token, "&app=a&protocol=http").await.expect(404);
    let again = desk.call(Method::DELETE, &path, None).await.expect(200);
    assert_eq!(again.json()["closed"], 0);
    desk.call(Method::DELETE, "/routes", None).await.expect(400);
    let audit = desk
        .get("/api/audit?action=closed")
        .await
        .expect(200)
        .json();
    assert_eq!(audit["entries"][0]["reason"], "session-ended");
}

#[tokio::test]
async fn workers_come_and_go_by_their_second_name() {
    let desk = Desk::open().await;
    let registration = port_worker("w1", 20000, 20009);
    let joined = desk.post("/workers/register", registration.clone()).await;
    let joined = joined.expect(200).json();
    assert_eq!(
        (&joined["generation"], &joined["routes"]),
        (&json!(0), &json!([]))
    );
    let id = joined["worker_id"].as_str().unwrap().to_owned();
    desk.serving_worker(registration.clone()).await;
    create(&desk, route("jupyter", 8888)).await.expect(201);
    let joined = desk
        .post("/workers/register", registration)
        .await
        .expect(200)
        .json();
    assert_eq!(joined["worker_id"], id);
    assert_eq!(joined["routes"][0]["app"], "jupyter");
    let status = async || {
        let workers = desk.get("/workers").await.expect(200).json();
        assert_eq!(workers["workers"][0]["occupied_slots"], 1);
        workers["workers"][0]["status"].clone()
    };
    assert_eq!(status().await, "ALIVE");
    for _ in 0..3 {
        let path = format!("/workers/{id}");
        desk.call(Method::DELETE, &path, None).await.expect(200);
    }
    assert_eq!(status().await, "LOST");
    assert_eq!(listed(&desk, "").await[0]["worker"]["available"], false);
    desk.call(Method::DELETE, &format!("/workers/{SESSION}"), None)
        .await
        .expect(404);
}

#[tokio::test]
async fn mistakes_and_strangers_are_refused() {
    let desk = Desk::open().await;
    desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let errors = create(&desk, json!({"port": 0})).await.expect(400).json();
    let missing: Vec<_> = errors["data"]["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["loc"][0])
        .collect();
    assert_eq!(
        missing,
        ["session_id", "service", "kernel_host", "kernel_port"]
    );
    create(&desk, with(route("a", 1), "worker", "nobody"))
        .await
        .expect(404);
    let long = with(route("a", 1), "kernel_host", "h".repeat(256));
    create(&desk, long).await.expect(400);
    let body = json!({"kernel_host": "h", "kernel_port": 1});
    let path = format!("/routes/{SESSION}");
    desk.call(Method::PUT, &path, Some(body)).await.expect(404);
    for (method, path) in [
        (Method::GET, "/workers"),
        (Method::POST, "/workers/register"),
        (Method::GET, "/routes"),
        (Method::POST, "/routes"),
        (Method::DELETE, "/routes"),
        (Method::PUT, &path),
    ] {
        let stranger = bare(method, path).body(axum::body::Body::empty());
        desk.send(stranger.unwrap()).await.expect(401);
    }
}
