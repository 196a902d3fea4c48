//! What holds for every exchange.

use std::net::SocketAddr;

use super::*;
use crate::api::Peer;

#[tokio::test]
async fn every_answer_names_its_server_and_its_request() {
    let bench = Bench::new().await;
    for path in ["/status", "/nowhere", "/api/worker"] {
        let reply = bench
            .call(
                "GET",
                path,
                &[("x-backend-request-id", "id-1")],
                Value::Null,
            )
            .await;
        assert_eq!(reply.header("server"), "BackendAI");
        assert_eq!(reply.header("x-backend-request-id"), "id-1");
        assert_eq!(reply.header("x-backendai-requestid"), "id-1");
        let bad = bench
            .call("GET", path, &[("x-backend-request-id", "a b")], Value::Null)
            .await;
        assert_eq!(bad.header("x-backend-request-id").len(), 36);
    }
}

#[tokio::test]
async fn status_and_health_need_no_credential() {
    let bench = Bench::new().await;
    let status = bench.call("GET", "/status", &[], Value::Null).await;
    assert_eq!(
        status.body,
        r#"{"api_version": "v2", "advertise_address": "http://127.0.0.1:6030"}"#
    );
    let ready = || bench.call("GET", "/health/readyz", &[], Value::Null);
    assert_eq!(ready().await.status, 503);
    bench.app.health.look(bench.app.store.as_ref(), None).await;
    assert_eq!(ready().await.json()["status"], "ok");
    bench.drain.begin();
    assert_eq!(ready().await.status, 503);
    assert_eq!(
        bench
            .call("GET", "/health/livez", &[], Value::Null)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let bench = Bench::new().await;
    let lost = bench.call("GET", "/v2/conf/", &[], Value::Null).await;
    assert_eq!(lost.status, 404);
    assert_eq!(lost.json()["data"], "/v2/conf/");
    assert_eq!(lost.header("access-control-allow-origin"), "*");
    assert_eq!(lost.header("content-length"), lost.body.len().to_string());

    let wrong = bench.call("DELETE", "/v2/conf", &[], Value::Null).await;
    assert_eq!(wrong.status, 405);
    assert_eq!(wrong.json()["msg"], "Method DELETE not allowed");
    assert!(wrong.body.contains("POST"), "{}", wrong.body);

    let page = bench
        .call("GET", "/x", &[("accept", "text/html")], Value::Null)
        .await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.body.contains("Unknown URL path."));
}

#[tokio::test]
async fn other_origins_are_answered() {
    let bench = Bench::new().await;
    let origin = ("origin", "https://ui.example");
    let simple = bench.call("GET", "/status", &[origin], Value::Null).await;
    assert_eq!(
        simple.header("access-control-allow-origin"),
        "https://ui.example"
    );
    let method = ("access-control-request-method", "PUT");
    let headers = ("access-control-request-headers", "content-type, X-Thing");
    let asked = [origin, method, headers];
    let preflight = bench
        .call("OPTIONS", "/api/worker", &asked, Value::Null)
        .await;
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-methods"), "PUT");
    assert_eq!(
        preflight.header("access-control-allow-headers"),
        "CONTENT-TYPE,X-THING"
    );
    assert_eq!(
        bench
            .call("OPTIONS", "/api/worker", &[origin], Value::Null)
            .await
            .status,
        400
    );
    assert_eq!(
        bench
            .call("OPTIONS", "/v2/proxy/auth", &asked, Value::Null)
            .await
            .status,
        405
    );
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let bench = Bench::new().await;
    let reply = bench
        .trusted("POST", "/v2/conf", json!("x".repeat(5000)))
        .await;
    assert_eq!(reply.status, 400);
    assert!(
        reply.json()["msg"]
            .as_str()
            .unwrap()
            .contains("server.body_limit")
    );
}

#[tokio::test]
async fn metrics_are_for_known_networks() {
    let bench = Bench::new().await;
    bench.worker().await;
    let ask = |from: Option<&str>| {
        let mut request = Request::get("/metrics").body(Body::empty()).unwrap();
        if let Some(from) = from {
            let from: SocketAddr = from.parse().unwrap();
            request.extensions_mut().insert(Peer(from));
        }
        bench.send(request)
    };
    for stranger in [None, Some("10.0.0.1:1"), Some("[::1]:1")] {
        assert_eq!(ask(stranger).await.status, 403);
    }
    let reply = ask(Some("[::ffff:127.0.0.1]:1")).await;
    assert_eq!(reply.status, 200);
    assert!(
        reply
            .body
            .contains("patchbay_coordinator_slots{worker=\"worker-1\"} 5"),
        "{}",
        reply.body
    );
    assert!(
        reply.body.contains("endpoint=\"/metrics\""),
        "{}",
        reply.body
    );
}
