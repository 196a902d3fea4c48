//! What the agent counts, and the endpoint that shows it.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Gauge {
    /// Gateways that can reach us.
    pub connected: AtomicU64,
    /// Registrations.
    pub registrations: AtomicU64,
    /// Connections to local services.
    pub streams: AtomicU64,
    /// Of those, open ones.
    pub open_streams: AtomicU64,
    /// Local services that could not be reached.
    pub unreachable: AtomicU64,
    /// Requests answered by long polling.
    pub polled: AtomicU64,
    /// Bytes to local services.
    pub bytes_in: AtomicU64,
    /// Bytes from local services.
    pub bytes_out: AtomicU64,
}

impl Gauge {
    /// In Prometheus' text form.
    pub fn text(&self) -> String {
        let connected = load(&self.connected);
        let all = [
            ("connected", "gauge", connected),
            ("registrations_total", "counter", load(&self.registrations)),
            ("streams_total", "counter", load(&self.streams)),
            ("open_streams", "gauge", load(&self.open_streams)),
            ("unreachable_total", "counter", load(&self.unreachable)),
            ("polled_requests_total", "counter", load(&self.polled)),
            ("bytes_in_total", "counter", load(&self.bytes_in)),
            ("bytes_out_total", "counter", load(&self.bytes_out)),
        ];
        let mut text = String::new();
        for (name, kind, value) in all {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "# TYPE patchbay_agent_{name} {kind}\npatchbay_agent_{name} {value}"
            );
        }
        text
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Binds the endpoint.
///
/// # Errors
/// If the address is taken or not ours.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves `/metrics` and `/health` until the task is dropped.
pub async fn serve(listener: TcpListener, gauge: Arc<Gauge>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let gauge = Arc::clone(&gauge);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&request, &gauge);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A client that breaks off has its own reasons.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(request: &Request<Incoming>, gauge: &Gauge) -> Response<Full<Bytes>> {
    let connected = load(&gauge.connected) > 0;
    let (status, text) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, gauge.text()),
        "/health" if connected => (StatusCode::OK, "connected\n".into()),
        "/health" => (StatusCode::SERVICE_UNAVAILABLE, "not connected\n".into()),
        _ => (
            StatusCode::NOT_FOUND,
            "there is /metrics and /health\n".into(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}
