//! The app behind the circuits: it remembers what reached it, and answers slowly, at length or
//! in pieces, as a scenario asks. It refuses to guess: a piece is sent when the scenario lets it.
//!
//! `pages` holds the plain answers, `streams` those in pieces, `socket` the WebSocket ones.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post};
use http::{HeaderMap, Method, Uri};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

mod faults;
mod pages;
mod socket;
mod streams;

pub use streams::{digest, download, text_of};

/// Requests remembered.
const MEMORY: usize = 4096;

/// A running app; it ends when dropped.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    book: Book,
    server: JoinHandle<()>,
}

/// A request as it reached the app.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
}

impl Seen {
    /// A header's text; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }
}

/// What the app's answers share with the scenario.
#[derive(Clone, Debug)]
struct Book {
    seen: Arc<Mutex<VecDeque<Seen>>>,
    pieces: Arc<Semaphore>,
    faults: Arc<faults::Faults>,
}

impl App {
    /// Starts one on a free loopback port.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    /// Starts one at an address, where another may have been.
    ///
    /// # Errors
    /// If the port cannot be bound.
    pub async fn start_at(address: SocketAddr) -> anyhow::Result<Self> {
        let book = Book {
            seen: Arc::default(),
            pieces: Arc::new(Semaphore::new(0)),
            faults: Arc::default(),
        };
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let router = router(book.clone());
        let server = tokio::spawn(async move {
            // It serves until aborted; there is nothing to do about its end.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            book,
            server,
        })
    }

    /// What reached it under this path, oldest first.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        let seen = self.book.seen.lock();
        let seen = seen.unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .filter(|request| request.uri.path() == path)
            .cloned()
            .collect()
    }

    /// Answers every other request with 503 from now on, or no more. Health checks and WebSockets
    /// are not requests in this sense.
    pub fn fail_every_other(&self, fails: bool) {
        self.book.faults.fail_every_other(fails);
    }

    /// Answers `/healthz` with this status from now on.
    pub fn answer_checks(&self, status: u16) {
        self.book.faults.answer_checks(status);
    }

    /// Lets `count` more pieces of `/pieces` and `/events` answers go.
    pub fn release(&self, count: usize) {
        self.book.pieces.add_permits(count);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn router(book: Book) -> Router {
    Router::new()
        .route("/hello", get(pages::hello))
        .route("/cookies", get(pages::cookies))
        .route("/status/{code}", any(pages::status))
        .route("/redirect", get(pages::redirect))
        .route("/upload", post(streams::upload))
        .route("/download/{bytes}", get(streams::download_route))
        .route("/pieces/{count}", get(streams::pieces))
        .route("/events/{count}", get(streams::events))
        .route("/text/{bytes}", any(streams::text))
        .route("/healthz", get(faults::check))
        .route("/never", get(faults::never))
        .route("/ws/echo", any(socket::echo))
        .route("/ws/first", any(socket::speaks_first))
        .route("/ws/close/{code}", any(socket::closes))
        .route("/ws/head", any(socket::tells_its_head))
        .route("/ws/held", any(socket::held))
        .fallback(any(pages::echo))
        .layer(from_fn_with_state(book.clone(), remember))
        .with_state(book)
}

async fn remember(State(book): State<Book>, request: Request, next: Next) -> Response {
    let seen = Seen {
        method: request.method().clone(),
        uri: request.uri().clone(),
        headers: request.headers().clone(),
    };
    {
        let mut all = book.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == MEMORY {
            all.pop_front();
        }
        all.push_back(seen);
    }
    let path = request.uri().path();
    let is_plain = path != "/healthz" && !path.starts_with("/ws/");
    if is_plain && book.faults.strikes() {
        return http::StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    next.run(request).await
}
