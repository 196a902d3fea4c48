//! The API as a client sees it, over a real connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use patchbay_common::event::Change;
use patchbay_common::token::SetupClaims;
use patchbay_listen::tls::Purpose;
use reqwest::{Client, Method, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Admin;
use crate::explain::{Explain, Record};
use crate::frontend::{Carry, ConnectionGate, Guarding, HttpCarrier};
use crate::metrics::Metrics;
use crate::setup::Setup;
use crate::sync::trial::{Books, FakeCoordinator, circuit, config};
use crate::sync::{Everywhere, Link};
use crate::table::Table;

struct Api {
    address: SocketAddr,
    http: Client,
    coordinator: FakeCoordinator,
    link: Arc<Link>,
    explain: Arc<Explain>,
    config: crate::config::Config,
    _stopping: watch::Sender<bool>,
}

impl Api {
    async fn start() -> Self {
        Self::of(|_| ()).await
    }

    /// With a coordinator whose books are prepared so.
    async fn of(prepare: impl FnOnce(&mut Books)) -> Self {
        let coordinator = FakeCoordinator::start().await;
        prepare(&mut coordinator.books());
        let config = config(coordinator.address, "");
        let table = Arc::new(Table::new());
        let link = Link::start(&config, Arc::clone(&table), Arc::new(Everywhere)).unwrap();
        let link = Arc::new(link);
        let gate = Arc::new(ConnectionGate::new(0));
        let metrics = Arc::new(Metrics::new(&table, &link, &gate, None).unwrap());
        let explain = Arc::new(Explain::new(16));
        let setup = Setup::new(&config, table, link.coordinator().clone());
        let admin = Admin::new(
            &config,
            setup,
            Arc::clone(&link),
            metrics,
            Arc::clone(&explain),
        );
        let carrier = Arc::new(HttpCarrier::new(
            Guarding {
                app: Arc::new(admin),
                head_patience: Duration::from_secs(30),
            },
            None,
            Purpose::OpenApi,
            Arc::new([]),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, stopping) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (carrier, stopping) = (Arc::clone(&carrier), stopping.clone());
                tokio::spawn(async move { carrier.carry(stream, stopping).await });
            }
        });
        let policy = reqwest::redirect::Policy::none();
        Self {
            address,
            http: Client::builder().redirect(policy).build().unwrap(),
            coordinator,
            link,
            explain,
            config,
            _stopping: sender,
        }
    }

    async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.http.request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.call(Method::GET, path, &[]).await
    }
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn probes_tell_readiness_from_what_is_merely_away() {
    let api = Api::start().await;
    api.link.ready().await;
    for path in [
        "/",
        "/livez",
        "/readyz",
        "/health",
        "/health/livez",
        "/health/readyz",
    ] {
        let answer = api.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(header(&answer, "server"), "BackendAI");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["component"], "appproxy-worker");
        assert_eq!(body["status"], "ok", "{path}");
    }
    api.coordinator.kill().await;
    crate::sync::trial::eventually("the loss is noticed", || {
        !api.link.status().coordinator_reach.healthy
    })
    .await;
    let whole: Value = api.get("/health").await.json().await.unwrap();
    assert_eq!(whole["status"], "degraded");
    assert!(whole["connectivity"]["connectivity_checks"][0]["error_message"].is_string());
    assert_eq!(api.get("/readyz").await.status(), 200);
}

#[tokio::test]
async fn before_the_first_fetch_it_is_not_ready() {
    let api = Api::of(|books| books.refusing = Some(503)).await;
    let ready = api.get("/readyz").await;
    assert_eq!(ready.status(), 503);
    let body: Value = ready.json().await.unwrap();
    assert_eq!(body["status"], "error");
    assert_eq!(api.get("/livez").await.status(), 200);
}

#[tokio::test]
async fn status_and_metrics_are_given_in_the_agreed_forms() {
    let api = Api::start().await;
    let status = api.get("/status").await.text().await.unwrap();
    assert_eq!(status, r#"{"api_version":"v2"}"#);
    let worker: Value = api.get("/health/status").await.json().await.unwrap();
    assert_eq!(worker["authority"], "worker-1");
    assert_eq!(worker["app_mode"], "port");
    assert_eq!(worker["available_slots"], 96);
    let metrics = api.get("/metrics").await;
    assert_eq!(
        header(&metrics, "content-type"),
        "text/plain; charset=utf-8"
    );
    let text = metrics.text().await.unwrap();
    assert!(
        text.contains("backendai_api_request_count_total{"),
        "{text}"
    );
}

#[tokio::test]
async fn errors_have_the_callers_form_and_the_request_id() {
    let api = Api::start().await;
    let id = [("x-backend-request-id", "req-7")];
    let missing = api.call(Method::GET, "/nowhere", &id).await;
    assert_eq!(missing.status(), 404);
    for name in ["x-backend-request-id", "x-backendai-requestid"] {
        assert_eq!(header(&missing, name), "req-7");
    }
    assert_eq!(
        header(&missing, "content-type"),
        "application/problem+json; charset=utf-8"
    );
    let body: Value = missing.json().await.unwrap();
    assert_eq!(body["error_code"], "agent_request_not-found");
    assert_eq!(api.get("/setup/").await.status(), 404);

    let wrong = api.call(Method::POST, "/status", &[]).await;
    assert_eq!(
        (wrong.status().as_u16(), header(&wrong, "allow")),
        (405, "GET, HEAD")
    );

    let page = api
        .call(Method::GET, "/setup", &[("accept", "text/html")])
        .await;
    assert_eq!(page.status(), 400);
    assert!(header(&page, "content-type").starts_with("text/html"));
    let json = api
        .call(
            Method::GET,
            "/setup?token=x",
            &[("accept", "application/json")],
        )
        .await;
    assert_eq!(json.status(), 401);
    assert_eq!(
        header(&json, "content-type"),
        "application/json; charset=utf-8"
    );
    assert_eq!(header(&json, "access-control-allow-origin"), "*");
}

#[tokio::test]
async fn other_origins_may_ask_but_not_set_up_by_preflight() {
    let api = Api::start().await;
    let origin = ("origin", "https://ui.example");
    let answer = api.call(Method::GET, "/status", &[origin]).await;
    assert_eq!(
        header(&answer, "access-control-allow-origin"),
        "https://ui.example"
    );
    assert!(header(&answer, "access-control-expose-headers").contains("x-backend-request-id"));
    let asks = [
        origin,
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "x-a"),
    ];
    let preflight = api.call(Method::OPTIONS, "/status", &asks).await;
    assert_eq!(preflight.status(), 200);
    assert_eq!(header(&preflight, "access-control-allow-methods"), "GET");
    assert_eq!(header(&preflight, "access-control-allow-headers"), "X-A");
    assert_eq!(
        api.call(Method::OPTIONS, "/status", &[]).await.status(),
        400
    );
    assert_eq!(
        api.call(Method::OPTIONS, "/setup", &asks).await.status(),
        405
    );
}

#[tokio::test]
async fn setup_sets_the_cookie_and_sends_the_browser_on() {
    let api = Api::start().await;
    api.link.ready().await;
    let mut circuit = circuit(10_205);
    circuit.worker = api.link.status().worker.unwrap();
    api.coordinator
        .commit(Change::Created(vec![circuit.clone()]));
    let claims = SetupClaims {
        id: None,
        version: None,
        redirect: Some("/lab".into()),
        circuit: circuit.id,
        jti: None,
    };
    let token = api.config.tokens.sign(&claims).unwrap();
    let answer = api.get(&format!("/setup?token={token}")).await;
    assert_eq!(answer.status(), 302);
    assert_eq!(header(&answer, "location"), "http://127.0.0.1:10205/lab");
    assert!(header(&answer, "set-cookie").starts_with("appproxy_permit_"));
    assert_eq!(header(&answer, "cache-control"), "no-store");
    assert_eq!(header(&answer, "access-control-allow-origin"), "*");
    assert_eq!(answer.text().await.unwrap(), "302: Found");
    // The token may also come in a body; the query is not looked at then.
    let url = format!("http://{}/setup?token=x", api.address);
    let body = serde_json::json!({ "token": token });
    let answer = api.http.get(url).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 302);
}

#[tokio::test]
async fn head_has_no_body_and_the_connection_goes_on() {
    let api = Api::start().await;
    for _ in 0..2 {
        let answer = api.call(Method::HEAD, "/status", &[]).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "content-length"), "20");
    }
}

#[tokio::test]
async fn what_became_of_a_request_is_told_to_who_holds_the_secret() {
    let api = Api::start().await;
    api.explain.leave(Record {
        id: patchbay_common::request_id::RequestId::parse("req-1"),
        kind: "http",
        route: Some(("10.0.0.1:80".into(), "by its weight")),
        status: 504,
        error: Some("did not answer in time".into()),
        ..Record::default()
    });
    let secret = api.config.api_secret.expose().to_owned();
    let call = async |path: &str, token: &str| {
        let headers = [("x-backendai-token", token)];
        api.call(Method::GET, path, &headers).await
    };
    let path = "/api/explain/req-1";
    assert_eq!(call(path, "not the secret").await.status(), 401);
    assert_eq!(api.call(Method::GET, path, &[]).await.status(), 401);
    assert_eq!(call("/api/explain/req-2", &secret).await.status(), 404);
    let answer = call(path, &secret).await;
    assert_eq!(answer.status(), 200);
    let body: Value = answer.json().await.unwrap();
    let request = &body["requests"][0];
    assert_eq!(request["route"], "10.0.0.1:80");
    assert_eq!(request["chosen_because"], "by its weight");
    assert_eq!(request["status"], 504);
}
