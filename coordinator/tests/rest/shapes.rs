//! Credentials, errors, headers: what every answer looks like.

use axum::body::Body;
use http::{Method, Request};
use serde_json::json;

use crate::desk::{Answer, Desk, bare, conf};

async fn send(desk: &Desk, request: http::request::Builder, body: &str) -> Answer {
    desk.send(request.body(Body::from(body.to_owned())).unwrap())
        .await
}

#[tokio::test]
async fn strangers_are_refused_before_their_body_is_read() {
    let desk = Desk::open().await;
    for (method, path) in [
        (Method::GET, "/api/worker"),
        (Method::PUT, "/api/worker"),
        (
            Method::DELETE,
            "/api/circuit/6f0a7a52-6c2e-4a56-8f3c-2f1a0f4c9d01",
        ),
        (
            Method::GET,
            "/api/worker/6f0a7a52-6c2e-4a56-8f3c-2f1a0f4c9d01/events",
        ),
        (Method::GET, "/health/status"),
    ] {
        let answer = send(&desk, bare(method, path), "{not json")
            .await
            .expect(401);
        assert_eq!(answer.json()["error_code"], "agent_auth_unauthorized");
    }
    let answer = send(&desk, bare(Method::POST, "/v2/conf"), &conf().to_string()).await;
    answer.expect(401);
    send(&desk, bare(Method::POST, "/v2/conf"), "{}")
        .await
        .expect(401);
    send(&desk, bare(Method::GET, "/metrics"), "")
        .await
        .expect(403);
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let desk = Desk::open().await;
    let answer = send(&desk, bare(Method::GET, "/v2/conf/"), "")
        .await
        .expect(404);
    assert_eq!(
        answer.text,
        r#"{"type": "https://api.backend.ai/probs/url-not-found", "title": "Unknown URL path.", "error_code": "agent_request_not-found", "data": "/v2/conf/"}"#
    );
    assert_eq!(
        answer.header("content-type"),
        "application/json; charset=utf-8"
    );
    assert_eq!(answer.header("server"), "BackendAI");
    let answer = send(&desk, bare(Method::PATCH, "/v2/conf"), "")
        .await
        .expect(405)
        .json();
    assert_eq!(answer["msg"], "Method PATCH not allowed");
    assert!(
        answer["data"]["allowed_methods"]
            .as_array()
            .unwrap()
            .contains(&json!("POST"))
    );
    let answer = desk.get("/api/circuit/not-a-uuid").await.expect(404).json();
    assert_eq!(answer["title"], "E00002: No such circuit.");
}

#[tokio::test]
async fn people_get_pages() {
    let desk = Desk::open().await;
    let request = bare(Method::GET, "/nowhere")
        .header("accept", "text/html")
        .header("x-backendai-requestid", "page-7");
    let answer = send(&desk, request, "").await.expect(404);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert!(answer.text.contains("<h2>Unknown URL path.</h2>") && answer.text.contains("page-7"));
}

#[tokio::test]
async fn every_answer_carries_the_request_id_twice() {
    let desk = Desk::open().await;
    for path in ["/status", "/nowhere", "/api/worker"] {
        let request = bare(Method::GET, path).header("x-backend-request-id", "abc.1:2_3-4");
        let answer = send(&desk, request, "").await;
        assert_eq!(answer.header("x-backend-request-id"), "abc.1:2_3-4");
        assert_eq!(answer.header("x-backendai-requestid"), "abc.1:2_3-4");
    }
    let request = bare(Method::GET, "/status").header("x-backend-request-id", "two words");
    let made = send(&desk, request, "").await;
    assert_eq!(made.header("x-backend-request-id").len(), 36);
}

#[tokio::test]
async fn other_origins_may_read() {
    let desk = Desk::open().await;
    let with_origin = |path: &str| bare(Method::GET, path).header("origin", "https://ui.example");
    let answer = send(&desk, with_origin("/status"), "").await.expect(200);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "https://ui.example"
    );
    assert!(
        answer
            .header("access-control-expose-headers")
            .contains("x-backend-request-id")
    );
    let answer = send(&desk, with_origin("/api/worker"), "")
        .await
        .expect(401);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("access-control-expose-headers"), "*");
    let plain = send(&desk, bare(Method::GET, "/status"), "").await;
    assert_eq!(plain.header("access-control-allow-origin"), "");

    let preflight = bare(Method::OPTIONS, "/api/worker")
        .header("origin", "https://ui.example")
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "x-a, content-type");
    let answer = send(&desk, preflight, "").await.expect(200);
    assert_eq!(answer.header("access-control-allow-methods"), "PUT");
    assert_eq!(
        answer.header("access-control-allow-headers"),
        "X-A,CONTENT-TYPE"
    );
    send(&desk, bare(Method::OPTIONS, "/api/worker"), "")
        .await
        .expect(400);
    send(&desk, bare(Method::OPTIONS, "/v2/proxy/auth"), "")
        .await
        .expect(405);
}

#[tokio::test]
async fn bodies_win_and_have_a_limit() {
    let desk = Desk::open().await;
    let conf_with = |body: String| {
        Request::builder()
            .method(Method::POST)
            .uri("/v2/conf?kernel_port=1&kernel_host=x")
            .header("x-backendai-token", crate::desk::SECRET)
            .header("content-type", "text/plain")
            .body(Body::from(body))
            .unwrap()
    };
    desk.send(conf_with(conf().to_string())).await.expect(200);
    desk.send(conf_with("[1]".into())).await.expect(400);
    let answer = desk.send(conf_with("{".into())).await.expect(400).json();
    assert_eq!(answer["msg"], "Malformed body");
    let answer = desk
        .send(conf_with(r#"{"kernel_host": "a"}"#.into()))
        .await
        .expect(400)
        .json();
    let errors = answer["data"]["errors"].as_array().unwrap().clone();
    assert!(
        errors
            .iter()
            .any(|error| error["loc"] == json!(["kernel_port"])),
        "{errors:?}"
    );
    let large = desk.send(conf_with(" ".repeat(70_000))).await.expect(400);
    assert_eq!(large.json()["error_code"], "agent_request_bad-request");
}

#[tokio::test]
async fn status_and_health() {
    let desk = Desk::open().await;
    let answer = send(&desk, bare(Method::GET, "/status"), "")
        .await
        .expect(200);
    assert_eq!(
        answer.text,
        r#"{"api_version": "v2", "advertise_address": "http://127.0.0.1:6030"}"#
    );
    let health = send(&desk, bare(Method::GET, "/health/livez"), "")
        .await
        .expect(200)
        .json();
    assert_eq!(health["component"], "appproxy-coordinator");
    // Nothing was looked at yet, so nothing is known to be ready.
    send(&desk, bare(Method::GET, "/health/readyz"), "")
        .await
        .expect(503);
    let health = send(&desk, bare(Method::GET, "/health"), "")
        .await
        .expect(200)
        .json();
    assert_eq!(health["status"], "degraded");
    assert_eq!(
        health["connectivity"]["connectivity_checks"][0]["service_group"],
        "database"
    );
}
