//! The incumbent's bus: Redis publish/subscribe, and the hash of workers' last signs of life
//! (contract/events.md §3, §6).
//!
//! One connection sends, one listens; each is looked after by [`Redis::run`], which reconnects
//! with a growing pause. Sending never waits for a connection: without one it fails at once, and
//! the outbox repeats.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use patchbay_common::config::{HostPort, RedisAddress, Secret};
use patchbay_common::event::{CHANNEL, Change, FROM_COORDINATOR, Message};
use patchbay_common::id::CircuitId;
use patchbay_common::use_report::CircuitUse;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisError, RedisResult,
};
use tokio::sync::{Notify, RwLock, watch};

use super::{Acknowledgements, Announcement, PublishError, Publisher};
use crate::store::Store;

/// The database with what changes quickly; channels have none.
const LIVE: i64 = 2;
/// The database with the records of processes.
const STATISTICS: i64 = 0;
const LAST_SEEN: &str = "proxy-worker.last_seen";
const LAST_SEEN_KEPT: i64 = 172_800;
/// Seconds that a mark of last use is kept, and a count of requests.
const MARK_KEPT: u64 = 172_800;
const COUNT_KEPT: i64 = 3_600;

const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A silent connection is asked this often whether it lives.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Where Redis is and how to get in.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// The server, or the sentinels that know it.
    pub address: RedisAddress,
    /// Password of the default user.
    pub password: Option<Secret>,
}

/// The link to Redis.
pub struct Redis {
    settings: RedisSettings,
    sender: RwLock<Option<MultiplexedConnection>>,
    broken: Notify,
    attempted: watch::Sender<bool>,
    connected: AtomicBool,
}

impl Redis {
    /// A link that is not connected yet.
    pub fn new(settings: RedisSettings) -> Self {
        Self {
            settings,
            sender: RwLock::new(None),
            broken: Notify::new(),
            attempted: watch::channel(false).0,
            connected: AtomicBool::new(false),
        }
    }

    /// Whether the sending connection is up.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Completes after the first attempt to connect, whatever came of it.
    pub async fn attempted(&self) {
        // The sender lives as long as `self`.
        let _ = self.attempted.subscribe().wait_for(|done| *done).await;
    }

    /// Keeps both connections up until the process ends.
    pub async fn run(&self, store: &dyn Store, acknowledgements: &Acknowledgements) {
        tokio::join!(
            self.keep_sending(),
            self.keep_listening(acknowledgements),
            acknowledgements.write_down(store)
        );
    }

    async fn keep_sending(&self) {
        let mut pause = FIRST_PAUSE;
        let mut complained = false;
        loop {
            match self.connect().await {
                Ok(connection) => {
                    *self.sender.write().await = Some(connection.clone());
                    self.connected.store(true, Ordering::Relaxed);
                    self.attempted.send_replace(true);
                    log::info!("redis is connected");
                    (pause, complained) = (FIRST_PAUSE, false);
                    let why = self.until_broken(connection).await;
                    *self.sender.write().await = None;
                    self.connected.store(false, Ordering::Relaxed);
                    log::warn!("redis is gone: {why}");
                }
                Err(error) => {
                    self.attempted.send_replace(true);
                    if !std::mem::replace(&mut complained, true) {
                        log::warn!("redis cannot be reached, workers are told by stream: {error}");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Pings until the connection fails, or someone using it reports that it did.
    async fn until_broken(&self, mut connection: MultiplexedConnection) -> RedisError {
        loop {
            tokio::select! {
                () = tokio::time::sleep(PING_EVERY) => {}
                () = self.broken.notified() => {}
            }
            let ping = redis::cmd("PING").exec_async(&mut connection).await;
            if let Err(error) = ping {
                return error;
            }
        }
    }

    async fn keep_listening(&self, acknowledgements: &Acknowledgements) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.listen(acknowledgements).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    // The listener learns at once that the server is gone; the sender, which says
                    // nothing most of the time, would lose the next event to find out.
                    self.broken.notify_one();
                }
                Err(error) => log::debug!("not listening to redis: {error}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Listens until the connection ends. An error means that it never got that far.
    async fn listen(&self, book: &Acknowledgements) -> RedisResult<()> {
        let open = async {
            let client = self.client(LIVE).await?;
            let mut subscription = client.get_async_pubsub().await?;
            subscription.subscribe(CHANNEL).await?;
            Ok::<_, RedisError>(subscription.split())
        };
        let (mut sink, mut messages) = within(CONNECT_WITHIN, open).await?;
        log::debug!("listening to redis");
        loop {
            match tokio::time::timeout(PING_EVERY, messages.next()).await {
                Ok(Some(message)) => hear(message.get_payload_bytes(), book),
                Ok(None) => return Ok(()),
                Err(_) => {
                    if within(ANSWER_WITHIN, sink.ping::<redis::Value>())
                        .await
                        .is_err()
                    {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(Some(ANSWER_WITHIN));
        let open = async {
            let client = self.client(LIVE).await?;
            client
                .get_multiplexed_async_connection_with_config(&config)
                .await
        };
        within(CONNECT_WITHIN, open).await
    }

    /// A client for the server, wherever it is now.
    async fn client(&self, database: i64) -> RedisResult<Client> {
        let address = match &self.settings.address {
            RedisAddress::Single(address) => address.clone(),
            RedisAddress::Sentinel {
                nodes,
                service_name,
            } => find_master(nodes, service_name).await?,
        };
        let mut login = RedisConnectionInfo::default().set_db(database);
        if let Some(password) = &self.settings.password {
            login = login.set_password(password.expose());
        }
        client(&address, login)
    }

    async fn use_sender<T>(
        &self,
        command: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, PublishError> {
        let Some(mut connection) = self.sender.read().await.clone() else {
            return Err(PublishError::Down("redis"));
        };
        within(ANSWER_WITHIN, command(&mut connection))
            .await
            .map_err(|cause| {
                self.broken.notify_one();
                PublishError::Failed {
                    bus: "redis",
                    cause: Box::new(cause),
                }
            })
    }

    /// Publishes a text on a channel.
    ///
    /// # Errors
    /// If Redis does not take it.
    pub(super) async fn say(&self, channel: &str, wire: String) -> Result<(), PublishError> {
        self.use_sender(async |connection| {
            redis::cmd("PUBLISH")
                .arg(channel)
                .arg(wire)
                .exec_async(connection)
                .await
        })
        .await
    }

    /// Notes a worker's sign of life where the incumbent's coordinators look for it.
    ///
    /// # Errors
    /// If Redis does not take it; the caller has its own note of it.
    pub async fn saw(&self, authority: &str, now: f64) -> Result<(), PublishError> {
        self.use_sender(async |connection| {
            redis::pipe()
                .hset(LAST_SEEN, authority, now.to_string())
                .ignore()
                .expire(LAST_SEEN, LAST_SEEN_KEPT)
                .ignore()
                .exec_async(connection)
                .await
        })
        .await
    }

    /// When a circuit was last used, in seconds since 1970, and how often.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn marks(
        &self,
        circuit: CircuitId,
    ) -> Result<(Option<f64>, Option<u64>), PublishError> {
        self.use_sender(async |connection| {
            redis::cmd("MGET")
                .arg(format!("circuit.{circuit}.last_access"))
                .arg(format!("circuit.{circuit}.requests"))
                .query_async(connection)
                .await
        })
        .await
    }

    /// Leaves a record, which lasts for so long, on a connection of its own: that of the marks is
    /// in another database.
    ///
    /// # Errors
    /// If Redis does not take it.
    pub async fn leave_record(
        &self,
        key: &str,
        fields: &[(&str, String)],
        lasts: Duration,
    ) -> RedisResult<()> {
        let leave = async {
            let client = self.client(STATISTICS).await?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            let seconds = i64::try_from(lasts.as_secs()).unwrap_or(i64::MAX);
            redis::pipe()
                .hset_multiple(key, fields)
                .ignore()
                .expire(key, seconds)
                .ignore()
                .exec_async(&mut connection)
                .await
        };
        within(CONNECT_WITHIN, leave).await
    }

    /// Leaves marks of use as the incumbent's workers do (contract/events.md §8).
    ///
    /// # Errors
    /// If Redis does not take them.
    pub async fn note(&self, uses: &[CircuitUse]) -> Result<(), PublishError> {
        if uses.is_empty() {
            return Ok(());
        }
        let mut marks = redis::pipe();
        for used in uses {
            let id = used.circuit;
            let last = used.last.timestamp_micros() as f64 / 1e6;
            marks
                .set_ex(
                    format!("circuit.{id}.last_access"),
                    last.to_string(),
                    MARK_KEPT,
                )
                .ignore();
            if used.requests > 0 {
                let key = format!("circuit.{id}.requests");
                marks.incr(&key, used.requests).ignore();
                marks.expire(&key, COUNT_KEPT).ignore();
            }
        }
        self.use_sender(async |connection| marks.exec_async(connection).await)
            .await
    }

    /// The marks of these circuits' last uses, as they were written (contract/events.md §8), in
    /// the order of the circuits.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn last_uses(
        &self,
        circuits: &[CircuitId],
    ) -> Result<Vec<Option<String>>, PublishError> {
        if circuits.is_empty() {
            return Ok(Vec::new());
        }
        let marks: Vec<Option<Vec<u8>>> = self
            .use_sender(async |connection| {
                let mut ask = redis::cmd("MGET");
                for circuit in circuits {
                    ask.arg(format!("circuit.{circuit}.last_access"));
                }
                ask.query_async(connection).await
            })
            .await?;
        let text = |mark: Vec<u8>| String::from_utf8_lossy(&mark).into_owned();
        Ok(marks.into_iter().map(|mark| mark.map(text)).collect())
    }
}

#[async_trait]
impl Publisher for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn publish(&self, announcement: &Announcement) -> Result<(), PublishError> {
        let event = &announcement.event;
        let wire = Message {
            event: event.event.clone(),
            source: FROM_COORDINATOR.to_owned(),
            generation: Some(event.generation),
            request_id: event.request_id.clone(),
        }
        .to_wire()?;
        self.say(CHANNEL, wire).await
    }
}

/// Takes in one message of the shared channel; all but acknowledgements are others' business.
fn hear(wire: &[u8], book: &Acknowledgements) {
    let message = match Message::from_wire(wire) {
        Ok(Some(message)) => message,
        Ok(None) => return,
        Err(error) => {
            log::debug!("an unreadable message on {CHANNEL}: {error}");
            return;
        }
    };
    let Change::Added(circuits) = &message.event.change else {
        return;
    };
    for circuit in circuits {
        book.serves(circuit.id);
    }
    if let (Some(generation), Some(circuit)) = (message.generation, circuits.first()) {
        book.heard(circuit.worker, generation);
    }
}

fn client(address: &HostPort, login: RedisConnectionInfo) -> RedisResult<Client> {
    let address = ConnectionAddr::Tcp(address.host.clone(), address.port);
    Client::open(address.into_connection_info()?.set_redis_settings(login))
}

/// Asks the sentinels in turn where the server is.
async fn find_master(nodes: &[HostPort], service: &str) -> RedisResult<HostPort> {
    let mut last: RedisError = (ErrorKind::InvalidClientConfig, "no sentinel is configured").into();
    for node in nodes {
        let ask = async {
            let sentinel = client(node, RedisConnectionInfo::default())?;
            let mut connection = sentinel.get_multiplexed_async_connection().await?;
            redis::cmd("SENTINEL")
                .arg("GET-MASTER-ADDR-BY-NAME")
                .arg(service)
                .query_async::<Option<(String, u16)>>(&mut connection)
                .await
        };
        match within(ANSWER_WITHIN, ask).await {
            Ok(Some((host, port))) => return Ok(HostPort::new(host, port)),
            Ok(None) => {
                last = (
                    ErrorKind::InvalidClientConfig,
                    "the sentinels do not know redis.service_name",
                )
                    .into()
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn within<T>(limit: Duration, work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}
