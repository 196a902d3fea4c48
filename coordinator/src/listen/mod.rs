//! The API's socket: bound before anything starts, accepted from until the process drains.
//!
//! The socket is our own and not Pingora's, because an address that is taken has to be one clear
//! line at once, and because a draining process must refuse connections instead of taking them
//! in. What is accepted becomes a Pingora stream, in plaintext or TLS. This room refuses to know
//! HTTP; `wiring` runs it.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use patchbay_common::lifecycle::Drain;
use patchbay_listen::prepare;
use patchbay_listen::tls::{Live, Purpose};
use pingora_core::apps::ServerApp;
use pingora_core::listeners::tls::Acceptor as TlsAcceptor;
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections open at once. More wait in the system's queue.
const MAX_CONNECTIONS: usize = 16_384;
/// Longest a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after the system refused to give us a connection (too many open files, usually).
const PAUSE: Duration = Duration::from_millis(50);

/// Hands connections to `app` until the process drains; then the socket is closed.
///
/// # Errors
/// If the socket cannot be registered with the runtime.
pub async fn accept<A: ServerApp + Send + Sync + 'static>(
    listener: StdListener,
    tls: Option<Arc<Live>>,
    app: Arc<A>,
    drain: &Drain,
    shutdown: &ShutdownWatch,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut failing = false;
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = drain.stopping() => return Ok(()),
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                let (app, tls, shutdown) = (
                    Arc::clone(&app),
                    tls.as_ref().map(|tls| tls.acceptor(Purpose::Api)),
                    shutdown.clone(),
                );
                tokio::spawn(async move {
                    let _place = place;
                    if let Some(stream) = open(stream, tls).await {
                        app.process_new(stream, &shutdown).await;
                    }
                });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    log::error!("connections cannot be accepted: {error}");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The connection as a Pingora stream, both its addresses known; `None` if it came to nothing.
async fn open(stream: TcpStream, tls: Option<Arc<TlsAcceptor>>) -> Option<Stream> {
    let stream = prepare(stream, None)?;
    let Some(tls) = tls else {
        return Some(Box::new(stream));
    };
    match tokio::time::timeout(HANDSHAKE, tls.tls_handshake(stream)).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            log::debug!("a TLS handshake failed: {error}");
            None
        }
        Err(_) => None,
    }
}
