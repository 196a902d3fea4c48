//! The only place that knows every room: builds them, joins them, runs them.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::fd::IntoRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use patchbay_common::config::{HostPort, Loader, Mistake, RedisAddress};
use patchbay_common::lifecycle::{Drain, Notify, Outcome};
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::protocols::ALPN;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{
    ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch,
};
use pingora_core::services::background::{BackgroundService, GenBackgroundService};
use pingora_core::services::{Service as _, ServiceReadyNotifier, listening};
use pingora_core::tls;
use tokio::sync::{Mutex, watch};

use crate::api::{Api, App, Health, Metrics, Rooms, router};
use crate::circuits::{Closer, Opener};
use crate::config::{Config, Database, TlsFiles};
use crate::publish::redis::Redis;
use crate::publish::{Acknowledgements, Bus, Outbox, Publisher, Streams};
use crate::registry::{Registry, watch_over};
use crate::store::{PostgresConfig, PostgresStore, SqliteStore, Store};

/// How long a database may take to answer before the start is given up.
const DATABASE_WITHIN: Duration = Duration::from_secs(15);
/// Pause before a background task that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Brings the database to the schema of this program.
///
/// # Errors
/// If it cannot be reached or is of another version.
pub fn migrate(config: &Config) -> anyhow::Result<()> {
    block_on(async {
        let store = open_store(&config.database)?;
        match tokio::time::timeout(DATABASE_WITHIN, store.migrate()).await {
            Ok(outcome) => outcome.map_err(anyhow::Error::from),
            Err(_) => bail!("no answer within {} s", DATABASE_WITHIN.as_secs()),
        }
    })
    .with_context(|| describe(&config.database))
}

/// Tries what the start would do, and notes what would fail. Changes nothing.
pub fn check(config: &Config, loader: &mut Loader) {
    if let Err(error) = bind(&config.bind) {
        loader.mistake(Mistake::new("proxy_coordinator.bind_addr", format!("{error:#}")));
    }
    if let Some(files) = &config.tls
        && let Err(error) = load_tls(files)
    {
        loader.mistake(Mistake::new("proxy_coordinator.tls_cert", format!("{error:#}")));
    }
    let schema = block_on(async {
        let store = open_store(&config.database)?;
        match tokio::time::timeout(DATABASE_WITHIN, store.verify_schema()).await {
            Ok(outcome) => outcome.map_err(anyhow::Error::from),
            Err(_) => bail!("no answer within {} s", DATABASE_WITHIN.as_secs()),
        }
    });
    if let Err(error) = schema.with_context(|| describe(&config.database)) {
        loader.mistake(Mistake::new("db", format!("{error:#}")));
    }
    for address in config.redis.iter().flat_map(|redis| match &redis.address {
        RedisAddress::Single(address) => std::slice::from_ref(address),
        RedisAddress::Sentinel { nodes, .. } => nodes.as_slice(),
    }) {
        if let Err(error) = resolve(address) {
            loader.mistake(Mistake::new("redis", format!("{error:#}")));
        }
    }
}

/// Serves until told to stop.
///
/// # Errors
/// If the start fails, or a part without which nothing works ended.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let (listener, address) = bind(&config.bind)?;
    let tls = config.tls.as_ref().map(load_tls).transpose()?;
    migrate(config)?;

    let drain = Drain::new();
    let (fatal, failures) = watch::channel(None);
    let (app, background) = build(config, &drain)?;
    let api = Api::new(router(app), drain.clone(), config.server.max_connections);
    let mut service = listening::Service::new("api".into(), api);
    match tls {
        Some(settings) => service.add_tls_with_settings(&address.to_string(), None, settings),
        None => service.add_tcp(&address.to_string()),
    }
    service.threads = Some(threads(config.server.threads));

    let mut server = Server::new_with_opt_and_conf(None, ServerConf::default());
    server.add_service(Listening {
        socket: Some((service, listener, address)),
        threads: threads(config.server.threads),
        drain: drain.clone(),
        fatal,
    });
    server.add_service(GenBackgroundService::new("background".into(), Arc::new(background)));
    log::info!(
        "listening on {address}, keeping its books in {}",
        describe(&config.database)
    );
    let stop = Stop { drain, grace: config.server.grace_period.0, failures: failures.clone() };
    server.run(RunArgs { shutdown_signal: Box::new(stop) });
    match failures.borrow().as_ref() {
        None => Ok(()),
        Some(why) => bail!("{why}"),
    }
}

fn build(config: &Config, drain: &Drain) -> anyhow::Result<(App, Background)> {
    let store = open_store(&config.database)?;
    let metrics = Arc::new(Metrics::new()?);
    let streams = Arc::new(Streams::default());
    let acknowledgements = Arc::new(Acknowledgements::default());
    let redis = config.redis.clone().map(|settings| Arc::new(Redis::new(settings)));
    let health = Arc::new(Health::new(match config.database {
        Database::Sqlite(_) => "sqlite",
        Database::Postgres(_) => "postgres",
    }));

    // The stream first: it never waits.
    let mut ways: Vec<Arc<dyn Publisher>> = vec![streams.clone()];
    ways.extend(redis.clone().map(|redis| redis as Arc<dyn Publisher>));
    let (published, outbox) = Outbox::new();
    let counts = Arc::clone(&metrics);
    let bus = Bus::new(ways, published, move |way, taken| counts.published(way, taken));

    let patience = config.server.acknowledgement_timeout.0;
    let opener = Opener::new(store.clone(), bus.clone(), acknowledgements.clone(), patience);
    let rooms = Rooms {
        store: store.clone(),
        registry: Registry::new(store.clone(), redis.clone()),
        opener: Arc::new(opener),
        closer: Closer::new(store.clone(), bus.clone()),
        streams: streams.clone(),
        acknowledgements: acknowledgements.clone(),
        health: health.clone(),
        metrics,
        drain: drain.clone(),
    };
    let background = Background {
        store,
        bus,
        outbox: Arc::new(Mutex::new(outbox)),
        streams,
        acknowledgements,
        redis,
        health,
        heartbeat_timeout: config.heartbeat_timeout,
        drain: drain.clone(),
    };
    Ok((App::new(rooms, config.api.clone()), background))
}

/// The API's listener. Pingora is handed a socket that is bound already, so that a busy port is
/// known at once, and closes it when the drain begins rather than when it ends.
struct Listening {
    socket: Option<(listening::Service<Api>, TcpListener, SocketAddr)>,
    threads: usize,
    drain: Drain,
    fatal: watch::Sender<Option<String>>,
}

#[async_trait]
impl pingora_core::services::Service for Listening {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        let Some((mut service, listener, address)) = self.socket.take() else {
            return;
        };
        if let Some(fds) = &fds {
            fds.lock().add(address.to_string(), listener.into_raw_fd());
        }
        let stopping = self.drain.watch();
        let serving = tokio::spawn(async move {
            service.start_service(fds, stopping, listeners_per_fd).await;
        });
        let outcome = serving.await;
        if !self.drain.is_stopping() {
            let why = outcome.err().map_or("it returned".to_owned(), |error| error.to_string());
            self.fatal.send_replace(Some(format!("the API stopped serving: {why}")));
        }
    }

    fn name(&self) -> &str {
        "api"
    }

    fn threads(&self) -> Option<usize> {
        Some(self.threads)
    }
}

/// Everything that runs beside the API.
struct Background {
    store: Arc<dyn Store>,
    bus: Bus,
    outbox: Arc<Mutex<Outbox>>,
    streams: Arc<Streams>,
    acknowledgements: Arc<Acknowledgements>,
    redis: Option<Arc<Redis>>,
    health: Arc<Health>,
    heartbeat_timeout: Duration,
    drain: Drain,
}

#[async_trait]
impl BackgroundService for Background {
    async fn start_with_ready_notifier(&self, _: ShutdownWatch, ready: ServiceReadyNotifier) {
        ready.notify_ready();
        let (outbox, store, bus) = (self.outbox.clone(), self.store.clone(), self.bus.clone());
        let streams = self.streams.clone();
        let sweeping = supervise("outbox", move || {
            let (outbox, store) = (outbox.clone(), store.clone());
            let (bus, streams) = (bus.clone(), streams.clone());
            async move { outbox.lock().await.run(&store, &bus, &streams).await }
        });
        let (store, timeout) = (self.store.clone(), self.heartbeat_timeout);
        let watching = supervise("liveness", move || {
            let store = store.clone();
            async move { watch_over(store.as_ref(), timeout).await }
        });
        let (health, store, redis) = (self.health.clone(), self.store.clone(), self.redis.clone());
        let looking = supervise("health", move || {
            let (health, store, redis) = (health.clone(), store.clone(), redis.clone());
            async move { health.watch(store.as_ref(), redis.as_deref()).await }
        });
        tokio::join!(
            sweeping,
            watching,
            looking,
            self.link_redis(),
            self.report_readiness(),
            Notify.feed_watchdog(),
        );
    }
}

impl Background {
    async fn link_redis(&self) {
        let Some(redis) = self.redis.clone() else {
            return;
        };
        let (store, book) = (self.store.clone(), self.acknowledgements.clone());
        supervise("redis", move || {
            let (redis, store, book) = (redis.clone(), store.clone(), book.clone());
            async move { redis.run(store.as_ref(), &book).await }
        })
        .await;
    }

    /// The socket is bound and the schema in place before any service starts; what is left is the
    /// first attempt to reach Redis and the first look at the store.
    async fn report_readiness(&self) {
        if let Some(redis) = &self.redis {
            redis.attempted().await;
        }
        self.health.look(self.store.as_ref(), self.redis.as_deref()).await;
        Notify.ready("serving");
        log::info!("ready");
        self.drain.stopping().await;
        Notify.stopping();
    }
}

/// Runs a task that should never end, again whenever it does.
async fn supervise<F>(name: &'static str, mut task: impl FnMut() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        match tokio::spawn(task()).await {
            Ok(()) => log::error!("the {name} task ended; it is started again"),
            Err(error) => log::error!("the {name} task failed; it is started again: {error}"),
        }
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

/// Ends the process: when told to, after what is in flight is done; or when nothing works.
struct Stop {
    drain: Drain,
    grace: Duration,
    failures: watch::Receiver<Option<String>>,
}

#[async_trait]
impl ShutdownSignalWatch for Stop {
    async fn recv(&self) -> ShutdownSignal {
        let mut failures = self.failures.clone();
        tokio::select! {
            outcome = self.drain.run_until_signalled(self.grace) => match outcome {
                Ok(Outcome::Finished) => log::info!("stopped: nothing was in flight"),
                Ok(Outcome::GraceOver(left)) => log::warn!("the grace is over: {left} in flight are cut"),
                Ok(Outcome::Forced(left)) => log::warn!("told twice: {left} in flight are cut"),
                Err(error) => log::error!("signals cannot be heard: {error}"),
            },
            Ok(_) = failures.wait_for(Option::is_some) => {}
        }
        // Pingora's graceful way sleeps its whole grace; the drain has done that work.
        ShutdownSignal::FastShutdown
    }
}

fn open_store(database: &Database) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match database {
        Database::Sqlite(path) => Arc::new(SqliteStore::open(path)?),
        Database::Postgres(postgres) => Arc::new(PostgresStore::new(&PostgresConfig {
            host: postgres.addr.host.clone(),
            port: postgres.addr.port,
            name: postgres.name.clone(),
            user: postgres.user.clone(),
            password: postgres.password.clone(),
            pool_size: postgres.connections,
        })?),
    })
}

fn describe(database: &Database) -> String {
    match database {
        Database::Sqlite(path) => format!("SQLite at {}", path.display()),
        Database::Postgres(postgres) => format!("PostgreSQL {} at {}", postgres.name, postgres.addr),
    }
}

fn resolve(address: &HostPort) -> anyhow::Result<SocketAddr> {
    let mut found = (address.host.as_str(), address.port)
        .to_socket_addrs()
        .with_context(|| format!("{address} cannot be resolved"))?;
    found.next().with_context(|| format!("{address} resolves to nothing"))
}

/// Binds the address; port 0 becomes the one the system chose.
fn bind(address: &HostPort) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let resolved = resolve(address)?;
    let bound = TcpListener::bind(resolved).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.with_context(|| format!("cannot listen on {address}"))
}

fn load_tls(files: &TlsFiles) -> anyhow::Result<TlsSettings> {
    let (cert, key) = (files.cert.display().to_string(), files.key.display().to_string());
    let loaded = tls::load_certs_and_key_files(&cert, &key)
        .map_err(|error| anyhow::anyhow!("{cert} or {key} cannot be read: {error}"))?;
    let Some((chain, private)) = loaded else {
        bail!("{cert} holds no certificate, or {key} no key");
    };
    tls::install_default_crypto_provider();
    tls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("{cert} and {key} do not belong together"))?;
    let mut settings = TlsSettings::intermediate(&cert, &key)
        .map_err(|error| anyhow::anyhow!("{cert}: {error}"))?;
    settings.set_alpn(ALPN::H1);
    Ok(settings)
}

fn threads(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime could be started")?
        .block_on(work)
}
