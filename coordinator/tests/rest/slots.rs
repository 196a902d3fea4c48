//! Slots, statistics, the shapes of version 1, and removals of several circuits at once.

use http::Method;
use serde_json::{Value, json};

use crate::desk::{Answer, Desk, SESSION, bare, port_worker, wildcard_worker};

/// Opens an app; answers with its circuit's id.
async fn opened(desk: &Desk, token: &str, app: &str, slots: usize) -> String {
    let more = format!("&app={app}&protocol=http&envs=%7B%22A%22%3A%221%22%7D");
    desk.auth(token, &more).await.expect(200);
    let slots = listed(desk.get("/v1/api/slots").await, slots);
    let slot = slots.iter().find(|slot| slot["circuit__app"] == app);
    slot.unwrap()["rel"].as_str().unwrap().to_owned()
}

fn listed(answer: Answer, count: usize) -> Vec<Value> {
    let list = answer.expect(200).json();
    let list = list
        .get("slots")
        .unwrap_or(&list)
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(list.len(), count, "{list:?}");
    list
}

#[tokio::test]
async fn slots_are_listed_by_worker_and_use() {
    let desk = Desk::open().await;
    desk.serving_worker(port_worker("w1", 20000, 20002)).await;
    let token = desk.token().await;
    let id = opened(&desk, &token, "jupyter", 1).await;
    desk.silent_worker(wildcard_worker("w2")).await;
    let used = listed(desk.get("/api/slots").await, 1);
    let expected = json!({
        "frontend_mode": "port", "in_use": true, "port": 20000, "subdomain": null,
        "circuit_id": id
    });
    assert_eq!(used, [expected]);
    listed(desk.get("/api/slots?in_use=false").await, 3);
    listed(desk.get("/api/slots?in_use=false&wsproxy_host=w2").await, 0);
    desk.get("/api/slots?wsproxy_host=w9").await.expect(404);

    let workers = listed(desk.get("/v1/api/worker").await, 2);
    assert_eq!(workers[0]["endpoint"], "http://127.0.0.1:10201");
    assert_eq!(workers[0]["total_slots"], 3);
    assert_eq!(workers[0]["min_range"], 20000);
    assert_eq!(workers[1]["total_slots"], -1);
    let slot = &listed(desk.get("/v1/api/slots").await, 1)[0];
    assert_eq!(slot["circuit__session_id"], SESSION);
    assert_eq!(slot["circuit__envs"], r#"{"A":"1"}"#);
    assert_eq!(slot["wsproxy_version"], "v2");
    assert_eq!(slot["worker__authority"], "w1");
}

#[tokio::test]
async fn statistics_show_the_circuit_and_its_use() {
    let desk = Desk::open().await;
    desk.serving_worker(port_worker("w1", 20000, 20002)).await;
    let token = desk.token().await;
    let id = opened(&desk, &token, "jupyter", 1).await;
    let path = format!("/api/circuit/{id}");
    let circuit = desk.get(&path).await.expect(200).json();
    let shown = desk
        .get(&format!("{path}/statistics"))
        .await
        .expect(200)
        .json();
    for (key, value) in circuit.as_object().unwrap() {
        assert_eq!(&shown[key], value, "{key}");
    }
    assert_eq!(shown["requests"], 0);
    assert!(shown["last_access"].as_i64().unwrap() > 1_600_000_000_000);
    assert!((3_500..=3_600).contains(&shown["ttl"].as_u64().unwrap()));
    let missing = format!("/api/circuit/{SESSION}/statistics");
    desk.get(&missing).await.expect(404);
}

#[tokio::test]
async fn several_circuits_go_at_once() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let token = desk.token().await;
    let mut ids = Vec::new();
    for (count, app) in ["a", "b", "c", "d"].into_iter().enumerate() {
        ids.push(opened(&desk, &token, app, count + 1).await);
    }
    let mut feed = desk.listen(worker, Some(4)).await;
    assert_eq!(feed.next().await.name, "hello");
    let bulk = "/api/circuit/_/bulk";
    let body = json!({"circuit_ids": [ids[0], SESSION, ids[1]]});
    let answer = desk
        .call(Method::DELETE, bulk, Some(body))
        .await
        .expect(200);
    assert_eq!(answer.text, r#"{"success": true}"#);
    for generation in [5, 6] {
        let removed = feed.next().await;
        assert_eq!(removed.name, "appproxy_circuit_removed_event");
        assert_eq!(removed.id, Some(generation));
    }
    listed(desk.get("/v1/api/slots").await, 2);
    let nothing = desk
        .call(Method::DELETE, &format!("{bulk}?circuit_ids="), None)
        .await;
    nothing.expect(200);
    let query = format!("{bulk}?circuit_ids={},{SESSION}", ids[2]);
    desk.call(Method::DELETE, &query, None).await.expect(200);
    let wrong = format!("{bulk}?circuit_ids=x");
    desk.call(Method::DELETE, &wrong, None).await.expect(400);
    let old = format!("/v1/api/circuit/{}", ids[3]);
    desk.call(Method::DELETE, &old, None).await.expect(200);
    desk.call(Method::DELETE, &old, None).await.expect(404);
    listed(desk.get("/api/slots").await, 0);
}

#[tokio::test]
async fn the_web_interface_removes_a_sessions_app() {
    let desk = Desk::open().await;
    desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let token = desk.token().await;
    opened(&desk, &token, "a", 1).await;
    opened(&desk, &token, "b", 2).await;
    let ask = |token: &str, session: &str, query: &str| {
        let path = format!("/v2/proxy/{token}/{session}/delete{query}");
        desk.send(
            bare(Method::GET, &path)
                .body(axum::body::Body::empty())
                .unwrap(),
        )
    };
    for _ in 0..2 {
        let answer = ask(&token, SESSION, "?app=a").await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        listed(desk.get("/api/slots").await, 1);
    }
    let other = "6f0a7a52-6c2e-4a56-8f3c-2f1a0f4c9d02";
    ask(&token, other, "").await.expect(401);
    ask(other, SESSION, "").await.expect(404);
    ask(&token, SESSION, "?app=").await.expect(400);
    listed(desk.get("/api/slots").await, 1);
    ask(&token, SESSION, "").await.expect(200);
    listed(desk.get("/api/slots").await, 0);
}
