//! A Docker engine, as far as one is watched: the list of containers and the stream of events, in
//! the engine's own JSON, over a Unix socket, TCP or TLS with certificates of both ends.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::serve::Listener;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::app::App;
use crate::ports::Ports;
use crate::tls::{Authority, Issued};

/// An engine; it ends when dropped.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    place: Place,
    server: Option<JoinHandle<()>>,
}

/// Where it listens.
#[derive(Clone)]
enum Place {
    Unix(PathBuf),
    Tcp(u16),
    Tls(u16, TlsAcceptor),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.endpoint())
    }
}

impl Place {
    fn endpoint(&self) -> String {
        match self {
            Self::Unix(path) => format!("unix://{}", path.display()),
            Self::Tcp(port) => format!("tcp://127.0.0.1:{port}"),
            Self::Tls(port, _) => format!("https://127.0.0.1:{port}"),
        }
    }
}

#[derive(Debug)]
struct Shared {
    containers: Mutex<Vec<Value>>,
    /// `None` ends every stream.
    events: broadcast::Sender<Option<Bytes>>,
    lists: AtomicUsize,
}

impl Engine {
    /// Starts one at this socket, without containers.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn start(socket: &Path) -> anyhow::Result<Self> {
        Self::at(Place::Unix(socket.to_owned()))
    }

    /// Starts one that listens on a free port.
    ///
    /// # Errors
    /// If the port cannot be bound.
    pub fn on_tcp() -> anyhow::Result<Self> {
        Self::at(Place::Tcp(free_port()?))
    }

    /// The same by TLS: it shows `own` and wants a certificate that `authority` has signed.
    ///
    /// # Errors
    /// If the port cannot be bound, or the library refuses the certificates.
    pub fn on_tls(authority: &Authority, own: &Issued) -> anyhow::Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(authority.guarding(own)?));
        Self::at(Place::Tls(free_port()?, acceptor))
    }

    fn at(place: Place) -> anyhow::Result<Self> {
        let mut engine = Self {
            shared: Arc::new(Shared {
                containers: Mutex::default(),
                events: broadcast::channel(64).0,
                lists: AtomicUsize::new(0),
            }),
            place,
            server: None,
        };
        engine.resume()?;
        Ok(engine)
    }

    /// Where it listens, as a configuration names it.
    pub fn endpoint(&self) -> String {
        self.place.endpoint()
    }

    /// Ends all connections and takes no more.
    pub fn fall(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
        // Nobody may be listening.
        let _ = self.shared.events.send(None);
        if let Place::Unix(socket) = &self.place {
            let _ = std::fs::remove_file(socket);
        }
    }

    /// Takes connections, again.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let router = Router::new().fallback(answer);
        let router = router.with_state(Arc::clone(&self.shared));
        let tcp = |port: u16| {
            let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        // It serves until aborted; there is nothing to do about its end.
        self.server = Some(match self.place.clone() {
            Place::Unix(socket) => {
                let listener = UnixListener::bind(socket)?;
                tokio::spawn(async move { drop(axum::serve(listener, router).await) })
            }
            Place::Tcp(port) => {
                let listener = tcp(port)?;
                tokio::spawn(async move { drop(axum::serve(listener, router).await) })
            }
            Place::Tls(port, acceptor) => {
                let listener = TlsListener {
                    tcp: tcp(port)?,
                    acceptor,
                };
                tokio::spawn(async move { drop(axum::serve(listener, router).await) })
            }
        });
        Ok(())
    }

    /// Starts a container that is `app`, with these labels. `word` is what the engine says of its
    /// health in brackets, if anything.
    pub fn run(&self, name: &str, app: &App, labels: &[(&str, &str)], word: &str) {
        let port = app.address.port();
        let labels: serde_json::Map<String, Value> = labels
            .iter()
            .map(|&(label, value)| (label.to_owned(), value.into()))
            .collect();
        let container = json!({
            "Id": id(name), "Names": [format!("/{name}")], "Image": "app:latest",
            "ImageID": "sha256:0", "Command": "/app", "Created": 1_700_000_000,
            "Ports": [{"PrivatePort": port, "Type": "tcp"}], "Labels": labels,
            "State": "running", "Status": format!("Up 2 seconds{word}"),
            "HostConfig": {"NetworkMode": "web"},
            "NetworkSettings": {"Networks": {"web": {"IPAddress": "127.0.0.1"}}}, "Mounts": [],
        });
        self.change(name, Some(container));
        self.tell("start", name);
    }

    /// A container's health is said to be another.
    pub fn say(&self, name: &str, word: &str) {
        let mut containers = self.lock();
        for container in containers.iter_mut() {
            if container["Id"] == id(name) {
                container["Status"] = format!("Up 1 minute{word}").into();
            }
        }
        drop(containers);
        self.tell("health_status: changed", name);
    }

    /// A container ends.
    pub fn kill(&self, name: &str) {
        self.change(name, None);
        for action in ["kill", "die", "stop"] {
            self.tell(action, name);
        }
    }

    /// A container ends, and the event is lost.
    pub fn lose(&self, name: &str) {
        self.change(name, None);
    }

    /// How often the list was asked for.
    pub fn lists(&self) -> usize {
        self.shared.lists.load(Ordering::SeqCst)
    }

    fn change(&self, name: &str, container: Option<Value>) {
        let mut containers = self.lock();
        containers.retain(|known| known["Id"] != id(name));
        containers.extend(container);
    }

    fn tell(&self, action: &str, name: &str) {
        let event = json!({
            "status": action, "id": id(name), "from": "app:latest", "Type": "container",
            "Action": action, "Actor": {"ID": id(name), "Attributes": {"name": name}},
            "scope": "local", "time": 1_700_000_000, "timeNano": 1_700_000_000_000_000_000u64,
        });
        // Nobody may be listening.
        let _ = self.shared.events.send(Some(format!("{event}\n").into()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Value>> {
        let containers = self.shared.containers.lock();
        containers.unwrap_or_else(PoisonError::into_inner)
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(Ports::reserve(1)?.first())
}

/// Takes those who shake hands; others are left alone.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let Ok((stream, peer)) = self.tcp.accept().await else {
                continue;
            };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.fall();
    }
}

fn id(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0<64}")
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path();
    if path.ends_with("/version") {
        return axum::Json(json!({"ApiVersion": "1.47", "Version": "27.0"})).into_response();
    }
    if path.ends_with("/containers/json") {
        shared.lists.fetch_add(1, Ordering::SeqCst);
        let containers = shared.containers.lock();
        let containers = containers.unwrap_or_else(PoisonError::into_inner).clone();
        return axum::Json(containers).into_response();
    }
    if path.ends_with("/events") {
        let events = futures_util::stream::unfold(shared.events.subscribe(), async |mut events| {
            let event = events.recv().await.ok().flatten()?;
            Some((Ok::<_, Infallible>(event), events))
        });
        return Body::from_stream(events.boxed()).into_response();
    }
    StatusCode::NOT_FOUND.into_response()
}
