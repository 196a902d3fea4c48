//! The Python coordinator, as a worker of ours meets it in an installation that is moved over
//! part by part: no generations, no event stream, events of one wire generation only
//! (contract/rest-worker.md §3, contract/events.md §2).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use patchbay_common::circuit::{AppMode, Circuit, FrontendMode, Protocol};
use patchbay_common::event::{CHANNEL, Change, CircuitEvent, FROM_COORDINATOR, Message};
use patchbay_common::id::{CircuitId, SessionId, UserId, WorkerId};
use patchbay_common::route::Route;
use patchbay_common::timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::redis::RedisServer;
use crate::secrets;

/// Which release's messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Up to 26.8: `args` only.
    Args,
    /// Later: `payload` only.
    Payload,
}

/// What the worker said, and what it is told.
#[derive(Debug, Default)]
pub struct Books {
    /// Bodies of its registrations.
    pub registrations: Vec<Value>,
    /// Heartbeats received.
    pub heartbeats: usize,
    /// Departures received.
    pub departures: usize,
    /// Calls without the secret.
    pub strangers: usize,
    /// The circuits it should serve.
    pub circuits: Vec<Circuit>,
}

/// A running stand-in.
#[derive(Debug)]
pub struct Incumbent {
    /// Where its API listens.
    pub address: SocketAddr,
    /// The worker's id in its books.
    pub worker: WorkerId,
    desk: Desk,
    server: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct Desk {
    worker: WorkerId,
    books: Arc<Mutex<Books>>,
}

impl Incumbent {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start() -> anyhow::Result<Self> {
        let desk = Desk {
            worker: WorkerId::random(),
            books: Arc::default(),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let router = router(desk.clone());
        let server = tokio::spawn(async move {
            // It serves until aborted; there is nothing to do about its end.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            worker: desk.worker,
            desk,
            server,
        })
    }

    /// Its books.
    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.desk.books()
    }

    /// A circuit of the worker's at a port, to an app; in the books from now on.
    pub fn circuit(&self, port: u16, app: SocketAddr) -> Circuit {
        let session = SessionId::random();
        let circuit = Circuit {
            id: CircuitId::random(),
            app: Some("jupyter".into()),
            protocol: Protocol::Http,
            worker: self.worker,
            app_mode: AppMode::Interactive,
            frontend_mode: FrontendMode::Port,
            envs: serde_json::Map::new(),
            arguments: None,
            open_to_public: true,
            allowed_client_ips: None,
            port: Some(port),
            subdomain: None,
            user_id: Some(UserId::random()),
            endpoint_id: None,
            runtime_variant: None,
            route_info: vec![route(session, app)],
            session_ids: vec![session],
            created_at: timestamp::now(),
            updated_at: timestamp::now(),
            origin_request_id: None,
            health_check: None,
            revocations: Default::default(),
        };
        self.books().circuits.push(circuit.clone());
        circuit
    }

    /// Publishes a change to the worker called `authority`, as a release of that wire does.
    ///
    /// # Errors
    /// If Redis refuses.
    pub async fn publish(
        &self,
        redis: &RedisServer,
        wire: Wire,
        authority: &str,
        change: Change,
    ) -> anyhow::Result<()> {
        let message = Message {
            event: CircuitEvent {
                authority: authority.to_owned(),
                change,
            },
            source: FROM_COORDINATOR.into(),
            generation: None,
            request_id: None,
        };
        let mut envelope: Value = serde_json::from_str(&message.to_wire()?)?;
        if let Some(envelope) = envelope.as_object_mut() {
            envelope.remove(match wire {
                Wire::Args => "payload",
                Wire::Payload => "args",
            });
        }
        redis
            .command(&["PUBLISH", CHANNEL, &envelope.to_string()])
            .await
    }
}

/// A route to an app on this machine.
pub fn route(session: SessionId, app: SocketAddr) -> Route {
    Route {
        route_id: None,
        session_id: session,
        session_name: None,
        kernel_host: Some(app.ip().to_string()),
        kernel_port: app.port(),
        protocol: Protocol::Http,
        traffic_ratio: 1.0,
    }
}

impl Drop for Incumbent {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Desk {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its answers about the worker have in common.
    fn worker_view(&self) -> Value {
        let mut view = self.books().registrations.last().cloned();
        let view = view.get_or_insert_with(|| json!({}));
        for (key, value) in [
            ("id", json!(self.worker)),
            ("created_at", json!("2026-11-20T15:49:26.452755Z")),
            ("updated_at", json!("2026-11-20T15:49:26.452755Z")),
            ("available_slots", json!(4)),
            ("occupied_slots", json!(0)),
            ("nodes", json!(1)),
            ("slots", json!([])),
        ] {
            view[key] = value;
        }
        for absent in ["port_range", "wildcard_domain", "wildcard_traffic_port"] {
            if view.get(absent).is_none() {
                view[absent] = Value::Null;
            }
        }
        view.clone()
    }
}

fn router(desk: Desk) -> Router {
    let worker = get(read).patch(heartbeat).delete(leave);
    Router::new()
        .route("/api/worker", put(register))
        .route("/api/worker/{id}", worker)
        .route("/api/worker/{id}/circuits", get(circuits))
        .route("/api/circuit/{id}", get(circuit))
        .fallback(nothing)
        .layer(axum::middleware::from_fn_with_state(desk.clone(), guard))
        .with_state(desk)
}

async fn guard(
    State(desk): State<Desk>,
    headers: HeaderMap,
    request: Request,
    next: axum::middleware::Next,
) -> Response {
    let token = headers.get("x-backendai-token");
    if token.is_none_or(|token| token != secrets::API) {
        desk.books().strangers += 1;
        return StatusCode::UNAUTHORIZED.into_response();
    }
    next.run(request).await
}

async fn register(State(desk): State<Desk>, Json(body): Json<Value>) -> Json<Value> {
    desk.books().registrations.push(body);
    Json(desk.worker_view())
}

async fn read(State(desk): State<Desk>) -> Json<Value> {
    Json(desk.worker_view())
}

async fn heartbeat(State(desk): State<Desk>) -> Json<Value> {
    desk.books().heartbeats += 1;
    Json(desk.worker_view())
}

async fn leave(State(desk): State<Desk>) -> Json<Value> {
    desk.books().departures += 1;
    Json(json!({"success": true}))
}

async fn circuits(State(desk): State<Desk>) -> Json<Value> {
    Json(json!({ "circuits": desk.books().circuits.clone() }))
}

async fn circuit(State(desk): State<Desk>, Path(id): Path<String>) -> Response {
    let books = desk.books();
    let mut all = books.circuits.iter();
    match all.find(|circuit| circuit.id.to_string() == id) {
        Some(circuit) => Json(json!(circuit)).into_response(),
        None => problem("object-not-found", "E00002: No such circuit."),
    }
}

async fn nothing() -> Response {
    problem("url-not-found", "Unknown URL path.")
}

fn problem(kind: &str, title: &str) -> Response {
    let body = json!({
        "type": format!("https://api.backend.ai/probs/{kind}"),
        "title": title,
        "error_code": "agent_read_not-found",
    });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}
