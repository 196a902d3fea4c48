//! The router behind Pingora's listener: hyper speaks HTTP/1 over Pingora's streams.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use patchbay_common::lifecycle::Drain;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use super::Peer;

/// Longest wait for a request's head, and so for the next request of a kept connection.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Largest request head, in bytes.
const HEAD_BYTES: usize = 64 * 1024;
/// Most header fields of a request.
const HEAD_FIELDS: usize = 128;

/// The API as a Pingora application.
pub struct Api {
    router: Router,
    drain: Drain,
    room: Arc<Semaphore>,
}

impl Api {
    /// Serves `router` on at most `connections` connections at once.
    pub fn new(router: Router, drain: Drain, connections: usize) -> Self {
        Self {
            router,
            drain,
            room: Arc::new(Semaphore::new(connections)),
        }
    }

    async fn serve(&self, stream: Stream) {
        let Ok(_room) = self.room.try_acquire() else {
            log::warn!("a connection is refused: server.max_connections are open");
            return;
        };
        let peer = peer(&stream);
        let asked = AtomicBool::new(false);
        let service = service_fn(|mut request: http::Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            if let Some(peer) = peer {
                request.extensions_mut().insert(Peer(peer));
            }
            self.router.clone().oneshot(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEAD_FIELDS)
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        // Held until the last byte of an answer is handed to the system, not just until the
        // handler is done.
        let _in_flight = self.drain.enter();
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = self.drain.stopping() => {
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            log::debug!("a connection ended early: {error}");
        }
    }
}

#[async_trait]
impl ServerApp for Api {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        _shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        self.serve(stream).await;
        None
    }
}

fn peer(stream: &Stream) -> Option<SocketAddr> {
    let digest = stream.get_socket_digest()?;
    digest.peer_addr()?.as_inet().copied()
}
