//! From a session to an app that is served.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use http::{Method, StatusCode};
use patchbay_common::token::{SetupClaims, TokenKey};
use serde_json::{Value, json};

use crate::desk::{Desk, JWT_SECRET, SESSION, bare, conf, port_worker, trusted, wildcard_worker};

fn claims(answer: &Value) -> SetupClaims {
    let url = answer["redirect_url"].as_str().unwrap();
    let (_, token) = url.split_once("/setup?token=").unwrap();
    TokenKey::new(JWT_SECRET).verify(token).unwrap()
}

async fn circuit(desk: &Desk, answer: &Value) -> Value {
    let path = format!("/api/circuit/{}", claims(answer).circuit);
    desk.get(&path).await.expect(200).json()
}

#[tokio::test]
async fn an_app_is_opened_and_shared() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let token = desk.token().await;

    let path = format!(
        "/v2/proxy/auth?app=jupyter&protocol=http&redirect=%2Flab&token={token}&session_id={SESSION}"
    );
    let mut request = trusted(Method::GET, &path, None);
    request
        .headers_mut()
        .insert("x-backend-request-id", "trace-1".parse().unwrap());
    let answer = desk.send(request).await.expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("x-backend-request-id"), "trace-1");
    let first = answer.json();
    assert_eq!(first["reuse"], false);
    let url = first["redirect_url"].as_str().unwrap();
    assert!(
        url.starts_with("http://127.0.0.1:10201/setup?token="),
        "{url}"
    );
    let setup = claims(&first);
    assert_eq!(setup.redirect.as_deref(), Some("/lab"));
    assert_eq!(setup.id.unwrap().to_string(), token);

    let opened = circuit(&desk, &first).await;
    assert_eq!(opened["worker"], worker.to_string());
    assert_eq!(opened["origin_request_id"], "trace-1");
    assert_eq!(opened["route_info"][0]["kernel_port"], 30729);
    assert!((20000..=20009).contains(&opened["port"].as_u64().unwrap()));

    let second = desk
        .auth(&token, "&app=jupyter&protocol=http")
        .await
        .expect(200)
        .json();
    assert_eq!(second["reuse"], true);
    assert_eq!(claims(&second).circuit, setup.circuit);
    let own = desk
        .auth(&token, "&app=jupyter&protocol=http&no_reuse=true")
        .await
        .expect(200);
    assert_ne!(claims(&own.json()).circuit, setup.circuit);
}

#[tokio::test]
async fn browsers_are_sent_on() {
    let desk = Desk::open().await;
    desk.serving_worker(wildcard_worker("w1")).await;
    let token = desk.token().await;
    let path = format!("/v2/proxy/auth?app=a&protocol=http&token={token}&session_id={SESSION}");
    let request = bare(Method::GET, &path).header("accept", "text/html,*/*;q=0.8");
    let answer = desk
        .send(request.body(axum::body::Body::empty()).unwrap())
        .await
        .expect(308);
    assert_eq!(answer.text, "308: Permanent Redirect");
    assert!(
        answer
            .header("location")
            .starts_with("https://Apps.Example.com/setup?token=")
    );
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn the_manager_opens_in_one_call() {
    let desk = Desk::open().await;
    desk.serving_worker(wildcard_worker("w1")).await;
    let mut body = conf();
    for (key, value) in [
        ("app", json!("vscode")),
        ("protocol", json!("http")),
        ("subdomain", json!("My Lab!")),
        ("envs", json!("{\"A\": \"é\"}")),
    ] {
        body[key] = value;
    }
    let answer = desk
        .post("/v2/proxy/auth", body.clone())
        .await
        .expect(200)
        .json();
    assert!(answer["token"].is_string());
    let opened = circuit(&desk, &answer).await;
    assert_eq!(opened["subdomain"], "my-lab");
    assert_eq!(opened["envs"], json!({"A": "é"}));

    let second = json!({"app": "other", "protocol": "http", "subdomain": "my-lab",
        "token": answer["token"], "session_id": SESSION});
    let answer = desk.post("/v2/proxy/auth", second).await.expect(200).json();
    let name = circuit(&desk, &answer).await["subdomain"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(name.starts_with("my-lab-") && name.len() == 15, "{name}");

    let request = bare(Method::POST, "/v2/proxy/auth")
        .body(body.to_string().into())
        .unwrap();
    desk.send(request).await.expect(401);
}

#[tokio::test]
async fn an_opening_nobody_serves_is_undone() {
    let desk = Desk::patient(Duration::from_millis(300)).await;
    let worker = desk
        .silent_worker(port_worker("silent", 20000, 20000))
        .await;
    let token = desk.token().await;
    let answer = desk
        .auth(&token, "&app=a&protocol=http")
        .await
        .expect(503)
        .json();
    assert_eq!(answer["msg"], "E10001: Proxy worker not responding");
    assert_eq!(answer["data"], json!({"worker": "silent"}));
    let held = desk
        .get(&format!("/api/worker/{worker}/circuits"))
        .await
        .json();
    assert_eq!(held, json!({"circuits": [], "generation": 2}));

    let mut feed = desk.listen(worker, Some(0)).await;
    assert_eq!(feed.next().await.name, "hello");
    assert_eq!(feed.next().await.name, "appproxy_circuit_created_event");
    assert_eq!(feed.next().await.name, "appproxy_circuit_removed_event");
}

#[tokio::test]
async fn no_slot_is_given_twice_and_none_is_wasted() {
    let desk = Desk::open().await;
    desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    desk.serving_worker(port_worker("w2", 21000, 21009)).await;
    let token = desk.token().await;
    let openings = (0..25).map(|n| {
        let more = format!("&app=app{n}&protocol=http");
        let (desk, token) = (&desk, &token);
        async move { desk.auth(token, &more).await }
    });
    let answers = join_all(openings).await;
    let mut ports = HashSet::new();
    for answer in answers
        .iter()
        .filter(|answer| answer.status == StatusCode::OK)
    {
        let port = circuit(&desk, &answer.json()).await["port"]
            .as_u64()
            .unwrap();
        assert!(ports.insert(port), "port {port} was given twice");
    }
    assert_eq!(ports.len(), 20);
    let refused = answers
        .iter()
        .find(|answer| answer.status != StatusCode::OK)
        .unwrap();
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        refused.json()["type"],
        "https://api.backend.ai/probs/appproxy/worker-not-available"
    );
}

#[tokio::test]
async fn a_wished_port_is_found_on_the_worker_that_has_it() {
    let desk = Desk::open().await;
    desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    desk.serving_worker(port_worker("w2", 21000, 21001)).await;
    let token = desk.token().await;
    let answer = desk
        .auth(&token, "&app=a&protocol=http&port=21001")
        .await
        .expect(200)
        .json();
    assert_eq!(circuit(&desk, &answer).await["port"], 21001);
    for port in [21001, 30000] {
        let more = format!("&app=b&protocol=http&port={port}");
        let answer = desk.auth(&token, &more).await.expect(409).json();
        assert_eq!(answer["title"], "Designated port already occupied.");
    }
}

#[tokio::test]
async fn byte_streams_never_count_as_shared() {
    let desk = Desk::open().await;
    let mut registration = port_worker("w1", 20000, 20009);
    registration["protocol"] = json!("tcp");
    desk.serving_worker(registration).await;
    let token = desk.token().await;
    let first = desk
        .auth(&token, "&app=desk&protocol=vnc")
        .await
        .expect(200)
        .json();
    let second = desk
        .auth(&token, "&app=desk&protocol=vnc")
        .await
        .expect(200)
        .json();
    assert_eq!(second["reuse"], false);
    assert_eq!(claims(&second).circuit, claims(&first).circuit);
    assert_eq!(circuit(&desk, &first).await["protocol"], "tcp");
}

#[tokio::test]
async fn wrong_openers_are_told_what_is_wrong() {
    let desk = Desk::open().await;
    desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let token = desk.token().await;
    let answer = desk
        .auth(
            &token,
            "&app=a&protocol=http&allowed_client_ips=10.0.0.0/8,nonsense",
        )
        .await;
    assert!(answer.expect(400).text.contains("nonsense"));
    desk.auth(
        "6f0a7a52-6c2e-4a56-8f3c-2f1a0f4c9d99",
        "&app=a&protocol=http",
    )
    .await
    .expect(404);
    desk.auth("not-a-uuid", "&app=a&protocol=http")
        .await
        .expect(400);
    desk.auth(&token, "&app=a&protocol=carrier-pigeon")
        .await
        .expect(400);
    let other = format!("/v2/proxy/auth?token={token}&session_id={token}&app=a&protocol=http");
    let answer = desk.get(&other).await.expect(401).json();
    assert_eq!(answer["msg"], "E20007: Session ID mismatch");

    for (key, value) in [
        ("kernel_host", json!("")),
        ("kernel_port", json!(0)),
        ("kernel_port", json!(70000)),
    ] {
        let mut body = conf();
        body[key] = value;
        assert!(
            desk.post("/v2/conf", body)
                .await
                .expect(400)
                .text
                .contains(key)
        );
    }
    let mut inference = conf();
    inference["session"]["id"] = Value::Null;
    let answer = desk.post("/v2/conf", inference).await.expect(400).json();
    assert_eq!(answer["msg"], "Not meant for inference apps");
}

#[tokio::test]
async fn closing_frees_the_slot_and_tells_the_worker() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(port_worker("w1", 20000, 20000)).await;
    let token = desk.token().await;
    let answer = desk
        .auth(&token, "&app=a&protocol=http")
        .await
        .expect(200)
        .json();
    let path = format!("/api/circuit/{}", claims(&answer).circuit);
    let mut feed = desk.listen(worker, None).await;
    assert_eq!(feed.next().await.data, json!({"generation": 1}));
    assert_eq!(
        desk.call(Method::DELETE, &path, None)
            .await
            .expect(200)
            .text,
        r#"{"success": true}"#
    );
    let removed = feed.next().await;
    assert_eq!(
        (removed.name.as_str(), removed.id),
        ("appproxy_circuit_removed_event", Some(2))
    );
    desk.call(Method::DELETE, &path, None).await.expect(404);
    desk.auth(&token, "&app=b&protocol=http").await.expect(200);
}

#[tokio::test]
async fn old_clients_get_the_address_to_call() {
    let desk = Desk::open().await;
    let path = format!(
        "/v2/proxy/tok/{SESSION}/add?app=jupyter&protocol=http&open_to_public=true&redirect=%2Fa%20b"
    );
    let answer = desk.get(&path).await.expect(200).json();
    assert_eq!(answer["code"], 200);
    let url = format!(
        "http://127.0.0.1:6030/v2/proxy/auth?app=jupyter&protocol=http&open_to_public=True&redirect=%2Fa+b&token=tok&session_id={SESSION}"
    );
    assert_eq!(answer["url"], url);
}
