//! Workers and circuits over the API.

use super::*;

#[tokio::test]
async fn strangers_are_refused() {
    let bench = Bench::new().await;
    let circuit = format!("/api/circuit/{}", CircuitId::random());
    for path in ["/api/worker", "/health/status", circuit.as_str()] {
        let reply = bench.call("GET", path, &[], Value::Null).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["msg"].clone()),
            (401, json!("Unauthorized access"))
        );
    }
}

#[tokio::test]
async fn a_worker_comes_lives_and_goes() {
    let bench = Bench::new().await;
    let id = bench.worker().await;
    let path = format!("/api/worker/{id}");
    let view = bench.trusted("GET", &path, Value::Null).await.json();
    assert_eq!(
        (view["nodes"].clone(), view["available_slots"].clone()),
        (json!(1), json!(5))
    );
    assert_eq!(view["slots"].as_array().unwrap().len(), 5);

    assert_eq!(
        bench.register("worker-1", "http", (10_205, 10_206)).await,
        id
    );
    let view = bench.trusted("PATCH", &path, Value::Null).await.json();
    assert_eq!(
        (view["nodes"].clone(), view["available_slots"].clone()),
        (json!(1), json!(2))
    );
    let list = bench
        .trusted("GET", "/api/worker", Value::Null)
        .await
        .json();
    assert_eq!(list["workers"].as_array().unwrap().len(), 1);

    let left = bench.trusted("DELETE", &path, Value::Null).await;
    assert_eq!(left.body, r#"{"success": true}"#);
    let unknown = format!("/api/worker/{}", WorkerId::random());
    for (method, path) in [
        ("GET", unknown.as_str()),
        ("PATCH", &unknown),
        ("GET", "/api/worker/x"),
    ] {
        let reply = bench.trusted(method, path, Value::Null).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["title"].clone()),
            (404, json!("E00002: No such worker."))
        );
    }
}

#[tokio::test]
async fn a_registration_without_its_slots_is_refused() {
    let bench = Bench::new().await;
    let mut body = registration("worker-1", "http", (10, 20));
    body["port_range"] = Value::Null;
    let reply = bench.trusted("PUT", "/api/worker", body).await;
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.json()["data"]["errors"][0]["loc"],
        json!(["port_range"])
    );
}

#[tokio::test]
async fn a_circuit_is_read_and_closed() {
    let bench = Bench::new().await;
    let worker = bench.worker().await;
    let path = auth_path(&bench.token().await, "protocol=http");
    assert_eq!(bench.call("GET", &path, &[], Value::Null).await.status, 308);
    let [circuit] = bench.circuits(worker).await[..] else {
        panic!("one circuit")
    };

    let path = format!("/api/circuit/{circuit}");
    let view = bench.trusted("GET", &path, Value::Null).await.json();
    assert_eq!(view["app"], "jupyter");
    assert_eq!(view["route_info"][0]["kernel_port"], 30729);
    assert_eq!(
        bench.trusted("DELETE", &path, Value::Null).await.status,
        200
    );
    assert!(bench.circuits(worker).await.is_empty());
    for method in ["GET", "DELETE"] {
        let reply = bench.trusted(method, &path, Value::Null).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["title"].clone()),
            (404, json!("E00002: No such circuit."))
        );
    }
}

#[tokio::test]
async fn acknowledgements_cannot_run_ahead() {
    let bench = Bench::new().await;
    let worker = bench.worker().await;
    let path = format!("/api/worker/{worker}/acknowledgements");
    let ahead = bench.trusted("POST", &path, json!({"generation": 7})).await;
    assert_eq!(ahead.status, 400);
    assert_eq!(
        bench
            .trusted("POST", &path, json!({"generation": 0}))
            .await
            .status,
        200
    );
    assert_eq!(bench.trusted("POST", &path, json!({})).await.status, 400);
}

#[tokio::test]
async fn events_resume_and_end_with_the_process() {
    let bench = Bench::new().await;
    let worker = bench.worker().await;
    let path = auth_path(&bench.token().await, "protocol=http");
    let opening = [("x-backend-request-id", "origin-1")];
    assert_eq!(
        bench.call("GET", &path, &opening, Value::Null).await.status,
        308
    );

    let request = Request::get(format!("/api/worker/{worker}/events"))
        .header("x-backendai-token", SECRET)
        .header("last-event-id", "0")
        .body(Body::empty())
        .unwrap();
    let response = bench.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut seen = String::new();
    while !seen.contains("origin-1") {
        let frame = body.frame().await.unwrap().unwrap();
        seen.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert!(
        seen.starts_with("event: hello\ndata: {\"generation\":1}\n\nid: 1\nevent: "),
        "{seen}"
    );

    bench.drain.begin();
    while let Some(frame) = body.frame().await {
        frame.unwrap();
    }
}
