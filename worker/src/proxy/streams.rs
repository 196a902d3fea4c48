//! Streams of HTTP/2. A connection of HTTP/1 is guarded by its frontend; a stream has none of its
//! own, and one connection may carry several circuits. So each stream runs as a task with a guard
//! of its own, and ends when its circuit closes, however silent both ends are.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use patchbay_common::config::ByteSize;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Proxy;
use crate::config::Http2;
use crate::frontend::Control;

/// The largest window there is (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

tokio::task_local! {
    /// The guard of the stream this task carries.
    static GUARD: Arc<Control>;
}

/// Tells the guard of the stream that this task carries, if it carries one.
pub(super) fn with_guard(tell: impl FnOnce(&Control)) {
    // Outside such a task there is nobody to tell.
    let _ = GUARD.try_with(|guard| tell(guard));
}

/// Pingora's engine, with a guard for each stream of HTTP/2.
pub struct Engine {
    inner: Arc<HttpProxy<Proxy>>,
}

type Processed<'a> = Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'a>>;

impl Engine {
    /// Pingora's engine for `proxy`, with HTTP/2 within these limits.
    pub fn new(conf: &Arc<ServerConf>, proxy: Proxy, limits: &Http2) -> Self {
        let idle = Duration::from_secs(proxy.keepalive);
        let mut inner = pingora_proxy::http_proxy(conf, proxy);
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(idle);
        inner.server_options = Some(options);
        inner.h2_options = Some(h2_options(limits));
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl HttpServerApp for Engine {
    /// By hand what `async_trait` would write, so that HTTP/1 costs no second box.
    fn process_new_http<'life0, 'life1, 'async_trait>(
        self: &'life0 Arc<Self>,
        session: ServerSession,
        shutdown: &'life1 ShutdownWatch,
    ) -> Processed<'async_trait>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        if !session.is_http2() {
            return self.inner.process_new_http(session, shutdown);
        }
        let guard = Arc::new(Control::of_stream());
        let processed = self.inner.process_new_http(session, shutdown);
        let processed = GUARD.scope(Arc::clone(&guard), processed);
        Box::pin(UntilClosed {
            processed: Box::pin(processed),
            guard,
            closing: None,
        })
    }

    fn http_cleanup<'life0, 'async_trait>(
        &'life0 self,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.inner.http_cleanup()
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.inner.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.inner.server_options()
    }
}

/// Pingora's own bounds, with the operator's over them.
fn h2_options(limits: &Http2) -> H2Options {
    let bytes = |size: ByteSize| u32::try_from(size.0).unwrap_or(u32::MAX);
    let window = |size: ByteSize| bytes(size).min(MAX_WINDOW);
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(limits.max_streams.get())
        .max_header_list_size(bytes(limits.max_header_list))
        .max_pending_accept_reset_streams(limits.max_pending_resets.get() as usize)
        .initial_window_size(window(limits.stream_window))
        .initial_connection_window_size(window(limits.connection_window));
    options
}

/// Runs until the circuit that the guard was told of closes. What runs is dropped then, which
/// resets the stream (RFC 9113 §5.4.2).
struct UntilClosed<F> {
    processed: Pin<Box<F>>,
    guard: Arc<Control>,
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<F: Future<Output = Option<ReusedHttpStream>>> Future for UntilClosed<F> {
    type Output = Option<ReusedHttpStream>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(done) = self.processed.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        if self.closing.is_none() {
            let token = self.guard.token();
            self.closing = token.map(|token| Box::pin(token.cancelled_owned()));
        }
        match &mut self.closing {
            Some(closing) => closing.as_mut().poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    }
}
