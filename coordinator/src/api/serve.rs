//! The router behind Pingora's streams: one HTTP/1 connection at a time, by hyper.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use patchbay_common::lifecycle::Drain;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tower::ServiceExt as _;

use super::Peer;

/// Time for a request's head to arrive, idle time between requests included (the incumbent keeps
/// idle connections as long).
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Most bytes of a request's head.
const HEAD_BYTES: usize = 64 * 1024;

/// The API as a Pingora application.
pub struct Api {
    router: Router,
    drain: Drain,
}

impl Api {
    /// Serves `router`; connections count as in flight until they have ended.
    pub fn new(router: Router, drain: Drain) -> Self {
        Self { router, drain }
    }
}

#[async_trait]
impl ServerApp for Api {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        _shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        // Held until the last byte of the last answer is written: an answer that exists but was
        // not sent yet must keep the process alive.
        let _in_flight = self.drain.enter();
        let peer = stream
            .get_socket_digest()
            .and_then(|digest| digest.peer_addr().and_then(|peer| peer.as_inet().copied()));
        let service = service_fn(|request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            if let Some(peer) = peer {
                request.extensions_mut().insert(Peer(peer));
            }
            let router = self.router.clone();
            async move { router.oneshot(request).await as Result<Response, _> }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = self.drain.stopping() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            log::debug!("a connection failed: {error}");
        }
        None
    }
}
