//! From a session's app to an open circuit.

use patchbay_common::token::{SetupClaims, TokenKey};

use super::*;

const AS_JSON: &[(&str, &str)] = &[("accept", "application/json")];

impl Bench {
    async fn auth(&self, token: &str, more: &str) -> Reply {
        self.call("GET", &auth_path(token, more), AS_JSON, Value::Null)
            .await
    }
}

fn claims(url: &str) -> SetupClaims {
    let token = url
        .strip_prefix("http://127.0.0.1:10201/setup?token=")
        .expect(url);
    TokenKey::new("some_jwt_secret").verify(token).unwrap()
}

#[tokio::test]
async fn a_circuit_is_opened_then_shared() {
    let bench = Bench::new().await;
    let worker = bench.worker().await;
    let token = bench.token().await;

    let first = bench.auth(&token, "protocol=http&redirect=/lab").await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(first.json()["reuse"], false);
    assert_eq!(first.header("access-control-allow-origin"), "*");
    let setup = claims(first.json()["redirect_url"].as_str().unwrap());
    assert_eq!(setup.id.unwrap().to_string(), token);
    assert_eq!(setup.redirect.as_deref(), Some("/lab"));
    assert_eq!(bench.circuits(worker).await, [setup.circuit]);

    let again = bench.auth(&token, "protocol=http").await;
    assert_eq!(again.json()["reuse"], true);
    assert_eq!(
        claims(again.json()["redirect_url"].as_str().unwrap()).circuit,
        setup.circuit
    );

    let own = bench.auth(&token, "protocol=http&no_reuse=true").await;
    assert_eq!(own.json()["reuse"], false);
    assert_eq!(bench.circuits(worker).await.len(), 2);
}

#[tokio::test]
async fn browsers_are_redirected() {
    let bench = Bench::new().await;
    bench.worker().await;
    let path = auth_path(&bench.token().await, "protocol=preopen");
    for accept in ["text/html", "*/*", "text/html, application/json"] {
        let reply = bench
            .call("GET", &path, &[("accept", accept)], Value::Null)
            .await;
        assert_eq!(reply.status, 308);
        assert_eq!(reply.body, "308: Permanent Redirect");
        claims(reply.header("location"));
    }
}

#[tokio::test]
async fn tcp_is_never_called_shared() {
    let bench = Bench::new().await;
    let worker = bench.register("worker-1", "tcp", (10_205, 10_209)).await;
    bench.serve(worker).await;
    let token = bench.token().await;
    for protocol in ["vnc", "tcp", "rdp", "vnc"] {
        let reply = bench.auth(&token, &format!("protocol={protocol}")).await;
        assert_eq!(reply.json()["reuse"], false, "{}", reply.body);
    }
    assert_eq!(bench.circuits(worker).await.len(), 1);
}

#[tokio::test]
async fn a_wish_for_a_port_is_granted_or_refused() {
    let bench = Bench::new().await;
    let worker = bench.worker().await;
    let token = bench.token().await;
    let wish = "protocol=http&no_reuse=1&port=10207";
    assert_eq!(bench.auth(&token, wish).await.status, 200);
    let taken = bench.auth(&token, wish).await;
    assert_eq!(taken.status, 409);
    assert_eq!(taken.json()["title"], "Designated port already occupied.");

    for _ in 0..4 {
        assert_eq!(
            bench.auth(&token, "protocol=http&no_reuse=1").await.status,
            200
        );
    }
    let full = bench.auth(&token, "protocol=http&no_reuse=1").await;
    assert_eq!(
        (full.status.as_u16(), full.json()["title"].clone()),
        (503, json!("Worker not available."))
    );
    assert_eq!(bench.circuits(worker).await.len(), 5);
}

#[tokio::test]
async fn an_opening_the_worker_does_not_acknowledge_is_undone() {
    let bench = Bench::with(Duration::from_millis(50), false).await;
    let silent = bench.register("worker-1", "http", (10_205, 10_209)).await;
    let reply = bench.auth(&bench.token().await, "protocol=http").await;
    assert_eq!(reply.status, 503);
    let body = reply.json();
    assert_eq!(body["msg"], "E10001: Proxy worker not responding");
    assert_eq!(body["data"], json!({"worker": "worker-1"}));
    assert!(bench.circuits(silent).await.is_empty());
}

#[tokio::test]
async fn tokens_are_checked() {
    let bench = Bench::new().await;
    bench.worker().await;
    let unknown = bench
        .auth("9b2c0cb3-a583-4199-ac63-d3521cbce55b", "protocol=http")
        .await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["title"], "E00002: No such token.");

    assert_eq!(bench.auth("no-uuid", "protocol=http").await.status, 400);

    let token = bench.token().await;
    let other = format!(
        "/v2/proxy/auth?app=a&protocol=http&token={token}&session_id=9b2c0cb3-a583-4199-ac63-d3521cbce55b"
    );
    let mismatch = bench.call("GET", &other, AS_JSON, Value::Null).await;
    assert_eq!(mismatch.status, 401);
    assert_eq!(mismatch.json()["msg"], "E20007: Session ID mismatch");
}

#[tokio::test]
async fn networks_that_cannot_be_read_are_refused() {
    let bench = Bench::new().await;
    bench.worker().await;
    let token = bench.token().await;
    let bad = bench
        .auth(
            &token,
            "protocol=http&allowed_client_ips=10.0.0.0/8,10.0.0.x",
        )
        .await;
    assert_eq!(bad.status, 400);
    assert_eq!(
        bad.json()["data"]["errors"][0]["loc"],
        json!(["allowed_client_ips"])
    );
    let good = bench
        .auth(&token, "protocol=http&allowed_client_ips=10.0.0.0/8")
        .await;
    assert_eq!(good.status, 200);
}

#[tokio::test]
async fn conf_asks_for_the_bare_secret_before_it_reads() {
    let bench = Bench::new().await;
    for headers in [
        vec![],
        vec![("x-backendai-token", "Bearer some_api_secret")],
    ] {
        let reply = bench.call("POST", "/v2/conf", &headers, json!({})).await;
        assert_eq!(reply.status, 401);
    }
    let open = Bench::with(Duration::from_secs(15), true).await;
    assert_eq!(open.call("POST", "/v2/conf", &[], conf()).await.status, 200);
}

#[tokio::test]
async fn conf_names_every_mistake() {
    let bench = Bench::new().await;
    let reply = bench
        .trusted("POST", "/v2/conf", json!({"kernel_port": 0, "session": {}}))
        .await;
    assert_eq!(reply.status, 400);
    let body = reply.json();
    let places: Vec<&Value> = body["data"]["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| &error["loc"])
        .collect();
    assert_eq!(
        json!(places),
        json!([
            ["login_session_token"],
            ["kernel_host"],
            ["kernel_port"],
            ["session", "id"],
            ["session", "user_uuid"],
            ["session", "group_id"],
            ["session", "access_key"],
            ["session", "domain_name"],
        ])
    );

    for key in ["id", "access_key"] {
        let mut inference = conf();
        inference["session"][key] = Value::Null;
        let reply = bench.trusted("POST", "/v2/conf", inference).await;
        assert_eq!(reply.status, 400);
        assert_eq!(reply.json()["msg"], "Not meant for inference apps");
    }
}

#[tokio::test]
async fn one_call_does_for_conf_and_auth() {
    let bench = Bench::new().await;
    let worker = bench.worker().await;
    let mut body = conf();
    body["app"] = json!("jupyter");
    body["protocol"] = json!("http");
    let stranger = bench
        .call("POST", "/v2/proxy/auth", &[], body.clone())
        .await;
    assert_eq!(stranger.status, 401);

    let reply = bench.trusted("POST", "/v2/proxy/auth", body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let answer = reply.json();
    let setup = claims(answer["redirect_url"].as_str().unwrap());
    assert_eq!(json!(setup.id), answer["token"]);
    assert_eq!(bench.circuits(worker).await, [setup.circuit]);

    let token = answer["token"].as_str().unwrap();
    let body = json!({"app": "jupyter", "protocol": "http", "token": token, "session_id": SESSION});
    let shared = bench.call("POST", "/v2/proxy/auth", AS_JSON, body).await;
    assert_eq!(shared.json()["reuse"], true, "{}", shared.body);
}

#[tokio::test]
async fn add_names_what_is_not_a_default() {
    let bench = Bench::new().await;
    let path = "/v2/proxy/T/S/add?open_to_public=true&app=my%20app&protocol=http&envs=%7B%22A%22:1%7D\
                &redirect=&port=10205&no_reuse=false";
    let reply = bench.call("GET", path, &[], Value::Null).await;
    assert_eq!(
        reply.body,
        "{\"code\": 200, \"url\": \"http://127.0.0.1:6030/v2/proxy/auth?app=my+app&protocol=http\
         &envs=%7B%22A%22%3A1%7D&open_to_public=True&port=10205&token=T&session_id=S\"}"
    );
    assert_eq!(
        bench
            .call("GET", "/v2/proxy/T/S/add?app=x", &[], Value::Null)
            .await
            .status,
        400
    );
}
