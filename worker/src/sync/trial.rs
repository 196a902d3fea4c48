//! What the room's tests work with: circuits, and a coordinator of a hundred lines that can be
//! cut off, restarted and made to forget.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use patchbay_common::circuit::Circuit;
use patchbay_common::cli::CommonArgs;
use patchbay_common::event::{Change, CircuitEvent};
use patchbay_common::id::{CircuitId, SessionId, WorkerId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// A circuit at a port.
pub(crate) fn circuit(port: u16) -> Circuit {
    serde_json::from_value(json!({
        "id": CircuitId::random(), "app": "jupyter", "protocol": "http",
        "worker": "712d01fd-c0b7-4c7a-a071-34b8db1270ba", "app_mode": "interactive",
        "frontend_mode": "port", "port": port, "user_id": "1d6c0f9e-0f5b-4c36-9a77-1f0e3c2b1a10",
        "route_info": [{"session_id": SessionId::random(), "kernel_host": "127.0.0.1",
            "kernel_port": 1, "protocol": "http", "traffic_ratio": 1.0}],
        "created_at": "2026-08-23T01:02:03Z", "updated_at": "2026-08-23T01:02:03Z",
    }))
    .unwrap()
}

/// A worker's configuration for these tests; `more` is added to the file.
pub(crate) fn config(coordinator: SocketAddr, more: &str) -> Config {
    config_of(&port_mode(coordinator), more)
}

fn port_mode(coordinator: SocketAddr) -> String {
    format!(
        "[proxy_worker]\ncoordinator_endpoint = \"http://{coordinator}\"\nauthority = \"worker-1\"\n\
         id = \"i-test\"\nfrontend_mode = \"port\"\nprotocol = \"http\"\nheartbeat_period = 0.2\n\
         accepted_traffics = [\"interactive\", \"inference\"]\n\
         api_bind_addr = {{ host = \"127.0.0.1\", port = 10201 }}\n\
         [proxy_worker.port_proxy]\nbind_host = \"127.0.0.1\"\nbind_port_range = [10205, 10300]\n"
    )
}

/// A configuration of this text, secrets added.
pub(crate) fn config_of(text: &str, more: &str) -> Config {
    let text = format!(
        "{text}\n[secrets]\napi_secret = \"api\"\njwt_secret = \"jwt\"\n\
         [permit_hash]\nsecret = \"permit\"\n{more}\n"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Config::from_file(Some(file.path()), [], &CommonArgs::default()).unwrap()
}

/// Waits until `so` holds; fails the test after ten seconds.
pub(crate) async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the coordinator of these tests knows.
#[derive(Default)]
pub(crate) struct Books {
    pub(crate) worker: Option<WorkerId>,
    pub(crate) circuits: BTreeMap<CircuitId, Circuit>,
    pub(crate) generation: u64,
    /// Speaks as a Python coordinator: no generations, no stream.
    pub(crate) python: bool,
    /// Refuses every call with this status.
    pub(crate) refusing: Option<u16>,
    /// First lines of requests, with what was noted of them.
    pub(crate) calls: Vec<(String, Value)>,
    pub(crate) acknowledged: Vec<u64>,
    streams: Vec<mpsc::UnboundedSender<String>>,
}

/// A coordinator.
pub(crate) struct FakeCoordinator {
    pub(crate) address: SocketAddr,
    books: Arc<Mutex<Books>>,
    cut: CancellationToken,
}

impl FakeCoordinator {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut fake = Self {
            address: listener.local_addr().unwrap(),
            books: Arc::default(),
            cut: CancellationToken::new(),
        };
        fake.serve(listener);
        fake
    }

    fn serve(&mut self, listener: TcpListener) {
        self.cut = CancellationToken::new();
        let (books, cut) = (Arc::clone(&self.books), self.cut.clone());
        tokio::spawn(cut.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = connection(stream, Arc::clone(&books));
                tokio::spawn(cut.clone().run_until_cancelled_owned(connection));
            }
        }));
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// As after `kill -9`: the port is closed, all connections are cut.
    pub(crate) async fn kill(&self) {
        self.cut.cancel();
        while TcpStream::connect(self.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn restart(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.serve(socket.listen(64).unwrap());
    }

    /// Changes the books; returns the generation and the event.
    pub(crate) fn commit(&self, change: Change) -> (u64, CircuitEvent) {
        let mut books = self.books();
        match &change {
            Change::Created(circuits) => {
                let new = circuits.iter().map(|one| (one.id, one.clone()));
                books.circuits.extend(new);
            }
            Change::Removed(circuits) => {
                for circuit in circuits {
                    books.circuits.remove(&circuit.id);
                }
            }
            Change::RouteUpdated(circuit, routes) => {
                let known = books.circuits.get_mut(&circuit.id).unwrap();
                known.route_info.clone_from(routes);
            }
            Change::Added(_) => {}
        }
        books.generation += 1;
        let authority = "worker-1".to_owned();
        (books.generation, CircuitEvent { authority, change })
    }

    /// Changes the books and sends the event on the streams.
    pub(crate) fn commit_and_stream(&self, change: Change) -> u64 {
        let (generation, event) = self.commit(change);
        let mut body = event.body().unwrap();
        body["request_id"] = "req-1".into();
        self.send(&format!(
            "event: {}\nid: {generation}\ndata: {body}\n\n",
            event.name()
        ));
        generation
    }

    /// Sends this text on the streams.
    pub(crate) fn send(&self, text: &str) {
        let streams = &mut self.books().streams;
        streams.retain(|stream| stream.send(text.to_owned()).is_ok());
    }

    pub(crate) fn streams(&self) -> usize {
        let mut books = self.books();
        books.streams.retain(|stream| !stream.is_closed());
        books.streams.len()
    }

    pub(crate) fn called(&self, call: &str) -> usize {
        let books = self.books();
        books.calls.iter().filter(|(name, _)| name == call).count()
    }
}

async fn connection(mut stream: TcpStream, books: Arc<Mutex<Books>>) {
    let mut read = Vec::new();
    while let Some((call, noted)) = request(&mut stream, &mut read).await {
        let feed = {
            let mut books = books.lock().unwrap();
            let wants_stream = call.ends_with("/events");
            books.calls.push((call.clone(), noted.clone()));
            (wants_stream && !books.python && books.refusing.is_none()).then(|| {
                let (sender, feed) = mpsc::unbounded_channel();
                books.streams.push(sender);
                (feed, books.generation)
            })
        };
        if let Some((feed, generation)) = feed {
            return stream_events(stream, feed, generation).await;
        }
        let (status, body) = answer(&mut books.lock().unwrap(), &call, &noted);
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn stream_events(
    mut stream: TcpStream,
    mut feed: mpsc::UnboundedReceiver<String>,
    generation: u64,
) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let hello = format!("{head}event: hello\nid: {generation}\ndata: {{}}\n\n");
    let mut next = Some(hello);
    while let Some(text) = next {
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        let mut one = [0];
        tokio::select! {
            text = feed.recv() => next = text,
            _ = stream.read(&mut one) => return,
        }
    }
}

/// Method and path of the next request, its headers and body noted.
async fn request(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<(String, Value)> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        if let httparse::Status::Complete(end) = head.parse(read).ok()? {
            let call = format!("{} {}", head.method?, head.path?);
            let mut noted = json!({});
            for header in head.headers.iter() {
                let text = String::from_utf8_lossy(header.value);
                noted[header.name.to_ascii_lowercase()] = text.into();
            }
            let length = noted["content-length"].as_str().unwrap_or("0");
            let length: usize = length.parse().ok()?;
            if read.len() >= end + length {
                let body = &read[end..end + length];
                noted["body"] = serde_json::from_slice(body).unwrap_or_default();
                read.drain(..end + length);
                return Some((call, noted));
            }
        }
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
}

fn answer(books: &mut Books, call: &str, noted: &Value) -> (u16, Value) {
    if let Some(status) = books.refusing {
        return (status, json!({"title": "refused"}));
    }
    let generation = (!books.python).then_some(books.generation);
    let (method, path) = call.split_once(' ').unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    if (method, parts.as_slice()) == ("PUT", &["api", "worker"]) {
        let id = *books.worker.get_or_insert_with(WorkerId::random);
        return (
            200,
            json!({"id": id, "generation": generation, "slots": []}),
        );
    }
    if let ["api", "circuit", id] = parts.as_slice() {
        let found = id.parse().ok().and_then(|id| books.circuits.get(&id));
        return found.map_or((404, json!({})), |found| (200, json!(found)));
    }
    let known = books.worker.map(|id| id.to_string());
    if parts.get(2).map(|id| (*id).to_owned()) != known {
        return (404, json!({"title": "E00002: No such worker."}));
    }
    match (method, parts.get(3).copied()) {
        ("PATCH", None) => (200, json!({"id": books.worker, "generation": generation})),
        ("DELETE", None) => (200, json!({"success": true})),
        ("GET", Some("circuits")) => {
            let circuits: Vec<&Circuit> = books.circuits.values().collect();
            let mut body = json!({"circuits": circuits});
            if generation.is_some() {
                body["generation"] = json!(generation);
            }
            (200, body)
        }
        ("POST", Some("acknowledgements")) => {
            let generation = noted["body"]["generation"].as_u64().unwrap();
            books.acknowledged.push(generation);
            (200, json!({}))
        }
        _ => (404, json!({"title": "Unknown URL path."})),
    }
}

/// A private Redis server; `None` where there is no `redis-server` to run.
pub(crate) struct PrivateRedis {
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
    child: tokio::process::Child,
}

impl PrivateRedis {
    pub(crate) async fn start(port: u16) -> Option<Self> {
        Self::run(port, "save \"\"\n", &[]).await
    }

    /// A sentinel that knows `server` as `mymaster`.
    pub(crate) async fn sentinel(port: u16, server: u16) -> Option<Self> {
        let file = format!("sentinel monitor mymaster 127.0.0.1 {server} 1\n");
        Self::run(port, &file, &["--sentinel"]).await
    }

    async fn run(port: u16, settings: &str, flags: &[&str]) -> Option<Self> {
        let program = std::env::var("PATCHBAY_TEST_REDIS_SERVER");
        let program = program.unwrap_or_else(|_| "redis-server".into());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("redis.conf");
        let place = folder.path().display();
        let head = format!("port {port}\nbind 127.0.0.1\ndir {place}\n");
        std::fs::write(&file, head + settings).unwrap();
        let spawned = tokio::process::Command::new(program)
            .arg(file)
            .args(flags)
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(cause) => {
                eprintln!("no redis-server, test passed over: {cause}");
                return None;
            }
        };
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(Self {
            port,
            _folder: folder,
            child,
        })
    }

    /// A port that was free a moment ago.
    pub(crate) async fn free_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    }

    /// Sends the server a signal by `kill`.
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        let mut kill = tokio::process::Command::new("kill");
        let done = kill.args(["-s", name, &id]).status().await.unwrap();
        assert!(done.success());
    }

    pub(crate) async fn stop(mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) async fn connect(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port)).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }
}
