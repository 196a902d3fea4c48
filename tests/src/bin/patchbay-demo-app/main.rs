//! A small real app to put behind Patchbay: what `scripts/quickstart` proxies to, and what a
//! person sees in the browser. Pages, server-sent events, WebSocket and downloads, each showing
//! the request id that Patchbay handed to it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use bytes::Bytes;
use chrono::Utc;
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::{Instant, interval};

/// The header Patchbay carries from the edge to the app.
const REQUEST_ID: &str = "x-backend-request-id";
/// Bytes of one piece of a download.
const PIECE: u64 = 64 * 1024;
/// The largest download: enough for any measurement, and an end to a slip of the keyboard.
const LARGEST_DOWNLOAD: u64 = 64 << 30;
/// The largest WebSocket message echoed.
const LARGEST_MESSAGE: usize = 1 << 20;

const PAGE: &str = include_str!("page.html");

#[derive(Clone)]
struct App {
    started: Instant,
    requests: Arc<AtomicU64>,
    piece: Bytes,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = listen_address(std::env::args().skip(1))?;
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    eprintln!("demo app on http://{}/", listener.local_addr()?);
    axum::serve(listener, routes()).await?;
    Ok(())
}

fn listen_address(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<SocketAddr> {
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Ok(SocketAddr::from(([127, 0, 0, 1], 8888))),
        (Some("--listen"), Some(address)) => address
            .parse()
            .with_context(|| format!("--listen {address}: write it as 127.0.0.1:8888")),
        _ => anyhow::bail!("usage: patchbay-demo-app [--listen ADDRESS:PORT]"),
    }
}

fn routes() -> Router {
    let piece: Vec<u8> = (0..PIECE).map(|at| b'a' + (at % 26) as u8).collect();
    let app = App {
        started: Instant::now(),
        requests: Arc::default(),
        piece: piece.into(),
    };
    Router::new()
        .route("/", get(page))
        .route("/headers", get(headers))
        .route("/events", get(events))
        .route("/ws", get(echo))
        .route("/download", get(download))
        .with_state(app)
}

/// The request id the proxy sent along, or a dash.
fn request_id(headers: &HeaderMap) -> String {
    let id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    id.unwrap_or("–").to_owned()
}

/// Text that cannot end or begin an element of the page.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

async fn page(State(app): State<App>, headers: HeaderMap) -> Html<String> {
    app.requests.fetch_add(1, Ordering::Relaxed);
    Html(PAGE.replace("{{request_id}}", &escaped(&request_id(&headers))))
}

/// Every header as it arrived; a repeated one has a list of its values.
async fn headers(State(app): State<App>, headers: HeaderMap) -> Json<serde_json::Value> {
    app.requests.fetch_add(1, Ordering::Relaxed);
    let mut all: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in &headers {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        all.entry(name.as_str()).or_default().push(text);
    }
    let shown = all
        .into_iter()
        .map(|(name, mut values)| match values.len() {
            1 => (name.to_owned(), json!(values.remove(0))),
            _ => (name.to_owned(), json!(values)),
        });
    Json(serde_json::Value::Object(shown.collect()))
}

/// The time, once a second, for as long as somebody listens.
async fn events(
    State(app): State<App>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    app.requests.fetch_add(1, Ordering::Relaxed);
    let id = request_id(&headers);
    let ticks = stream::unfold(interval(Duration::from_secs(1)), |mut ticks| async move {
        ticks.tick().await;
        Some(((), ticks))
    });
    let events = ticks.enumerate().map(move |(count, ())| {
        let facts = json!({
            "time": Utc::now().format("%H:%M:%S").to_string(),
            "tick": count + 1,
            "uptime": app.started.elapsed().as_secs(),
            "requests": app.requests.load(Ordering::Relaxed),
            "request_id": id,
        });
        Ok(Event::default().event("clock").data(facts.to_string()))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

async fn echo(State(app): State<App>, upgrade: WebSocketUpgrade) -> Response {
    app.requests.fetch_add(1, Ordering::Relaxed);
    upgrade
        .max_message_size(LARGEST_MESSAGE)
        .on_upgrade(echo_all)
}

/// Sends every message back until the client leaves; pings and closes are the library's.
async fn echo_all(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let is_content = matches!(message, Message::Text(_) | Message::Binary(_));
        if is_content && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// `?bytes=N`: a file of that size, made as it is read.
async fn download(
    State(app): State<App>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    app.requests.fetch_add(1, Ordering::Relaxed);
    let size = query.get("bytes").map_or(Ok(1 << 20), |text| text.parse());
    let Some(size) = size.ok().filter(|size| *size <= LARGEST_DOWNLOAD) else {
        let fix = format!("bytes: write a number from 0 to {LARGEST_DOWNLOAD}\n");
        return (StatusCode::BAD_REQUEST, fix).into_response();
    };
    let piece = app.piece;
    let pieces = stream::unfold(size, move |left| {
        let take = left.min(PIECE);
        // At most PIECE, which fits.
        let bytes = piece.slice(..usize::try_from(take).unwrap_or_default());
        async move { (left > 0).then(|| (Ok::<_, Infallible>(bytes), left - take)) }
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, size.to_string()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"patchbay-{size}.bin\""),
        ),
    ];
    (headers, Body::from_stream(pieces)).into_response()
}
