//! The router as its clients see it, over a store in memory and a worker that acknowledges.

mod edge;
mod proxy;
mod serve;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use patchbay_common::config::Secret;
use patchbay_common::id::{CircuitId, WorkerId};
use patchbay_common::lifecycle::Drain;
use patchbay_common::token::TokenKey;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{ApiSettings, App, Health, Metrics, Rooms, router};
use crate::circuits::{Closer, Endpoints, Opener};
use crate::publish::{Acknowledgements, Bus, Item, Outbox, ServiceFeeds, Streams};
use crate::registry::{Marks, Registry};
use crate::services::Services;
use crate::store::{SqliteStore, Store};

const SECRET: &str = "some_api_secret";
const SESSION: &str = "6f0a7a52-6c2e-4a56-8f3c-2f1a0f4c9d01";

/// A coordinator without its process.
struct Bench {
    app: App,
    router: Router,
    drain: Drain,
    _outbox: Outbox,
}

/// An answer, read to its end.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

impl Bench {
    async fn new() -> Self {
        Self::with(Duration::from_secs(15), false).await
    }

    async fn with(patience: Duration, allow_unauthorized_configure: bool) -> Self {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory());
        store.migrate().await.unwrap();
        let streams = Arc::new(Streams::default());
        let (published, outbox) = Outbox::new();
        let bus = Bus::new(vec![Arc::clone(&streams) as _], published, |_, _| {});
        let acknowledgements = Arc::new(Acknowledgements::default());
        let opener = Opener::new(
            Arc::clone(&store),
            bus.clone(),
            Arc::clone(&acknowledgements),
            patience,
        );
        let endpoints = Endpoints::new(
            Arc::clone(&store),
            bus.clone(),
            Arc::clone(&acknowledgements),
            patience,
        );
        let drain = Drain::new();
        let feeds = ServiceFeeds::new(Arc::clone(&store), None);
        let rooms = Rooms {
            services: Services::new(Arc::clone(&store), Arc::new(feeds)),
            registry: Registry::new(Arc::clone(&store), None),
            opener: Arc::new(opener),
            endpoints: Arc::new(endpoints),
            marks: Marks::new(store.clone(), None, Duration::from_secs(3_600)),
            closer: Closer::new(Arc::clone(&store), bus),
            health: Arc::new(Health::new("sqlite")),
            metrics: Arc::new(Metrics::new(None).unwrap()),
            drain: drain.clone(),
            store,
            streams,
            acknowledgements,
        };
        let settings = ApiSettings {
            api_secret: Secret::new(SECRET),
            jwt: TokenKey::new("some_jwt_secret"),
            advertise_url: "http://127.0.0.1:6030".into(),
            allow_unauthorized_configure,
            metric_networks: vec!["127.0.0.0/8".parse().unwrap()],
            body_limit: 4096,
            relay: None,
        };
        let app = App::new(rooms, settings);
        Self {
            router: router(app.clone()),
            app,
            drain,
            _outbox: outbox,
        }
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    /// A call with these headers.
    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        self.send(request.body(body).unwrap()).await
    }

    /// A call with the API's secret.
    async fn trusted(&self, method: &str, path: &str, body: Value) -> Reply {
        self.call(method, path, &[("x-backendai-token", SECRET)], body)
            .await
    }

    /// Registers a worker with these ports for this protocol.
    async fn register(&self, authority: &str, protocol: &str, ports: (u16, u16)) -> WorkerId {
        let reply = self
            .trusted(
                "PUT",
                "/api/worker",
                registration(authority, protocol, ports),
            )
            .await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()["id"].as_str().unwrap().parse().unwrap()
    }

    /// Acknowledges everything this worker is told, as a worker of ours does.
    async fn serve(&self, worker: WorkerId) {
        let store = Arc::clone(&self.app.store);
        let mut feed = self
            .app
            .streams
            .open(store, worker, Some(0))
            .await
            .unwrap()
            .unwrap();
        let book = Arc::clone(&self.app.acknowledgements);
        tokio::spawn(async move {
            while let Ok(item) = feed.next().await {
                if let Item::Event(event) | Item::Again(event) = item {
                    book.reached(worker, event.generation);
                }
            }
        });
    }

    async fn worker(&self) -> WorkerId {
        let worker = self.register("worker-1", "http", (10_205, 10_209)).await;
        self.serve(worker).await;
        worker
    }

    /// A token for [`SESSION`].
    async fn token(&self) -> String {
        let reply = self.trusted("POST", "/v2/conf", conf()).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()["token"].as_str().unwrap().to_owned()
    }

    /// The circuits of a worker, as the API lists them.
    async fn circuits(&self, worker: WorkerId) -> Vec<CircuitId> {
        let path = format!("/api/worker/{worker}/circuits");
        let circuits = self.trusted("GET", &path, Value::Null).await.json();
        let id = |circuit: &Value| circuit["id"].as_str().unwrap().parse().unwrap();
        circuits["circuits"]
            .as_array()
            .unwrap()
            .iter()
            .map(id)
            .collect()
    }
}

fn registration(authority: &str, protocol: &str, (first, last): (u16, u16)) -> Value {
    json!({
        "authority": authority, "frontend_mode": "port", "protocol": protocol,
        "hostname": "127.0.0.1", "tls_listen": false, "tls_advertised": false, "api_port": 10201,
        "port_range": [first, last], "filtered_apps_only": false,
        "accepted_traffics": ["interactive"], "node_id": "i-1",
    })
}

fn conf() -> Value {
    json!({
        "login_session_token": null, "kernel_host": "10.10.0.5", "kernel_port": 30729,
        "session": {
            "id": SESSION, "user_uuid": "1d6c0f9e-0f5b-4c36-9a77-1f0e3c2b1a10",
            "group_id": "2f4a9c11-5d5e-4a0a-8d8e-0a1b2c3d4e5f",
            "access_key": "AKEXAMPLE", "domain_name": "default",
        },
    })
}

fn auth_path(token: &str, more: &str) -> String {
    format!("/v2/proxy/auth?app=jupyter&token={token}&session_id={SESSION}&{more}")
}
