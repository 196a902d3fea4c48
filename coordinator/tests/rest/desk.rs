//! A coordinator without a socket, and workers that talk to it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use patchbay_common::config::Secret;
use patchbay_common::id::WorkerId;
use patchbay_common::lifecycle::Drain;
use patchbay_common::token::TokenKey;
use patchbay_coordinator::api::{ApiSettings, App, Health, Metrics, Rooms, router};
use patchbay_coordinator::circuits::{Closer, Endpoints, Opener};
use patchbay_coordinator::publish::{Acknowledgements, Bus, Outbox, ServiceFeeds, Streams};
use patchbay_coordinator::registry::{Marks, Registry};
use patchbay_coordinator::services::Services;
use patchbay_coordinator::store::{SqliteStore, Store};
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub(crate) const SECRET: &str = "some_api_secret";
pub(crate) const JWT_SECRET: &str = "some_jwt_secret";
pub(crate) const SESSION: &str = "6f0a7a52-6c2e-4a56-8f3c-2f1a0f4c9d01";
/// Longest a test waits for anything.
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Desk {
    router: Router,
    pub(crate) drain: Drain,
    // Events may be noted as published; nobody writes the notes down here.
    _outbox: Outbox,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }
}

impl Desk {
    /// Gives workers 5 s.
    pub(crate) async fn open() -> Self {
        Self::patient(Duration::from_secs(5)).await
    }

    pub(crate) async fn patient(patience: Duration) -> Self {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory());
        store.migrate().await.unwrap();
        let (published, outbox) = Outbox::new();
        let streams = Arc::new(Streams::default());
        let bus = Bus::new(vec![streams.clone()], published, |_, _| {});
        let acknowledgements = Arc::new(Acknowledgements::default());
        let opener = Opener::new(
            store.clone(),
            bus.clone(),
            acknowledgements.clone(),
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
            registry: Registry::new(store.clone(), None),
            opener: Arc::new(opener),
            endpoints: Arc::new(endpoints),
            marks: Marks::new(store.clone(), None, Duration::from_secs(3_600)),
            closer: Closer::new(store.clone(), bus),
            streams,
            acknowledgements,
            health: Arc::new(Health::new("sqlite")),
            metrics: Arc::new(Metrics::new(None).unwrap()),
            drain: drain.clone(),
            store,
        };
        let settings = ApiSettings {
            api_secret: Secret::new(SECRET),
            jwt: TokenKey::new(JWT_SECRET),
            advertise_url: "http://127.0.0.1:6030".into(),
            allow_unauthorized_configure: false,
            metric_networks: Vec::new(),
            body_limit: 64 * 1024,
            relay: None,
        };
        Self {
            router: router(App::new(rooms, settings)),
            drain,
            _outbox: outbox,
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(DEADLINE, body.collect())
            .await
            .unwrap();
        let text = String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap();
        Answer {
            status: head.status,
            headers: head.headers,
            text,
        }
    }

    /// As a caller that holds the secret and takes JSON.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send(trusted(method, path, body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Registers a worker that serves whatever it is told.
    pub(crate) async fn serving_worker(&self, registration: Value) -> WorkerId {
        let worker = self.silent_worker(registration).await;
        let mut feed = self.listen(worker, None).await;
        assert_eq!(feed.next().await.name, "hello");
        let router = self.router.clone();
        tokio::spawn(async move {
            while let Some(event) = feed.next_or_end().await {
                let generation = event.id.unwrap_or(feed.last_id);
                let path = format!("/api/worker/{worker}/acknowledgements");
                let request = trusted(Method::POST, &path, Some(json!({"generation": generation})));
                let answer = router.clone().oneshot(request).await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK);
            }
        });
        worker
    }

    /// Registers a worker that does not listen.
    pub(crate) async fn silent_worker(&self, registration: Value) -> WorkerId {
        let answer = self
            .call(Method::PUT, "/api/worker", Some(registration))
            .await;
        answer.expect(200).json()["id"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Opens a worker's event stream.
    pub(crate) async fn listen(&self, worker: WorkerId, after: Option<u64>) -> Feed {
        let mut request = trusted(Method::GET, &format!("/api/worker/{worker}/events"), None);
        if let Some(after) = after {
            request
                .headers_mut()
                .insert("last-event-id", after.to_string().parse().unwrap());
        }
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        Feed {
            pieces: response.into_body().into_data_stream(),
            last_id: 0,
        }
    }

    /// Mints a token for the session's app.
    pub(crate) async fn token(&self) -> String {
        let answer = self.post("/v2/conf", conf()).await.expect(200);
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    /// Opens an app; `more` is appended to the query.
    pub(crate) async fn auth(&self, token: &str, more: &str) -> Answer {
        let path = format!("/v2/proxy/auth?token={token}&session_id={SESSION}{more}");
        self.get(&path).await
    }
}

/// One server-sent event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<u64>,
    pub(crate) data: Value,
}

pub(crate) struct Feed {
    pieces: axum::body::BodyDataStream,
    pub(crate) last_id: u64,
}

impl Feed {
    pub(crate) async fn next(&mut self) -> Event {
        self.next_or_end().await.expect("the stream goes on")
    }

    /// The next event, comments passed over. The coordinator writes one event a piece.
    pub(crate) async fn next_or_end(&mut self) -> Option<Event> {
        loop {
            let piece = tokio::time::timeout(DEADLINE, self.pieces.next())
                .await
                .unwrap()?;
            let piece: Bytes = piece.unwrap();
            let text = std::str::from_utf8(&piece).unwrap();
            assert!(text.ends_with("\n\n"), "{text:?}");
            if text.starts_with(':') {
                continue;
            }
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
            let id = field("id: ").map(|id| id.parse().unwrap());
            self.last_id = id.unwrap_or(self.last_id);
            return Some(Event {
                name: field("event: ").unwrap().to_owned(),
                id,
                data: serde_json::from_str(field("data: ").unwrap()).unwrap(),
            });
        }
    }
}

pub(crate) fn trusted(method: Method, path: &str, body: Option<Value>) -> Request<Body> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("x-backendai-token", SECRET)
        .header(ACCEPT, "application/json");
    let body = body.map_or(Body::empty(), |body| Body::from(body.to_string()));
    request.body(body).unwrap()
}

/// A request without a credential.
pub(crate) fn bare(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path)
}

pub(crate) fn conf() -> Value {
    json!({
        "login_session_token": null, "kernel_host": "10.10.0.5", "kernel_port": 30729,
        "session": {
            "id": SESSION, "user_uuid": "1d6c0f9e-0f5b-4c36-9a77-1f0e3c2b1a10",
            "group_id": "2f4a9c11-5d5e-4a0a-8d8e-0a1b2c3d4e5f", "access_key": "AKEXAMPLE",
            "domain_name": "default"
        }
    })
}

pub(crate) fn port_worker(name: &str, first: u16, last: u16) -> Value {
    json!({
        "authority": name, "frontend_mode": "port", "protocol": "http", "hostname": "127.0.0.1",
        "tls_listen": false, "tls_advertised": false, "api_port": 10201,
        "accepted_traffics": ["interactive"], "filtered_apps_only": false, "app_filters": [],
        "traefik_last_used_marker_path": null, "port_range": [first, last]
    })
}

pub(crate) fn wildcard_worker(name: &str) -> Value {
    json!({
        "authority": name, "frontend_mode": "wildcard", "protocol": "http",
        "hostname": "Apps.Example.com", "tls_listen": false, "tls_advertised": true,
        "api_port": 443, "accepted_traffics": ["interactive"], "filtered_apps_only": false,
        "app_filters": [], "wildcard_domain": ".app.local", "wildcard_traffic_port": 10250
    })
}
