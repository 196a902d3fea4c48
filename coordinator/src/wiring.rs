//! Puts the rooms together. The only file that knows them all.
//!
//! Two Pingora services, each with a runtime of its own: `keeper` looks after Redis, the outbox,
//! the workers' signs of life, idle circuits and the health report; `api` serves requests. The socket is bound
//! and the schema current before either starts, so that what stands in the way is one clear line
//! and an exit.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use patchbay_common::config::{Loader, Mistake};
use patchbay_common::lifecycle::{Drain, Notify, Outcome, at_every_hangup};
use patchbay_listen::{bind, tls};
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora_core::services::background::{BackgroundService, background_service};
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api, ApiSettings, App, Health, Metrics, Relay};
use crate::circuits::{Closer, Endpoints, FailOver, Opener};
use crate::collect::{Collector, LastUses, ToldUses};
use crate::config::{Config, Database};
use crate::lease::Lease;
use crate::listen::accept;
use crate::publish::redis::Redis;
use crate::publish::{Acknowledgements, Bus, Outbox, Presence, Publisher, ServiceFeeds, Streams};
use crate::registry::{Marks, Registry, watch_over};
use crate::services::Services;
use crate::services::found::Discovery;
use crate::store::{Observer, PostgresStore, SqliteStore, Store};
use crate::supervise::supervise;
use crate::upkeep::{Keep, keep_up};

/// How long the database may take to answer a check.
const CHECK_WITHIN: Duration = Duration::from_secs(10);
/// How long the last notes of published events may take to be written.
const LAST_NOTES: Duration = Duration::from_secs(2);

/// Loads what the start would load, without keeping it, and notes what is wrong. The database is
/// asked only if its section is good: a wrong one would be asked in vain.
pub fn examine(config: &Config, loader: &mut Loader) {
    if let Some(plan) = &config.tls {
        tls::examine(plan, loader);
    }
    // Port 0: the check must not mind a coordinator that is running.
    if let Err(error) = bind(SocketAddr::new(config.bind.ip(), 0)) {
        loader.mistake(Mistake::new("proxy_coordinator.bind_addr", error));
    }
    if !loader.is_mistaken("db")
        && let Err(error) = verify_schema(config)
    {
        let problem = format!("{}: {error:#}", config.database);
        loader.mistake(Mistake::new("db", problem));
    }
}

fn verify_schema(config: &Config) -> anyhow::Result<()> {
    short_lived()?.block_on(async {
        let verify = async {
            store(&config.database)?
                .verify_schema()
                .await
                .map_err(Into::into)
        };
        match tokio::time::timeout(CHECK_WITHIN, verify).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!(
                "no answer within {} s",
                CHECK_WITHIN.as_secs()
            )),
        }
    })
}

/// Brings the database's schema up to date.
///
/// # Errors
/// If the database cannot be reached or is not ours.
pub fn migrate(config: &Config) -> anyhow::Result<()> {
    // The connections of this store end with the runtime; what serves opens its own.
    let migrated = short_lived()?.block_on(async {
        store(&config.database)?.migrate().await?;
        anyhow::Ok(())
    });
    migrated.with_context(|| format!("db: {}", config.database))
}

fn short_lived() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime can be built")
}

fn store(database: &Database) -> anyhow::Result<Arc<dyn Store>> {
    match database {
        Database::Sqlite { path } => Ok(Arc::new(SqliteStore::open(path)?)),
        Database::Postgres(config) => Ok(Arc::new(PostgresStore::connect(config.clone())?)),
    }
}

/// The store of what serves.
fn observed_store(database: &Database, observer: Observer) -> anyhow::Result<Arc<dyn Store>> {
    match database {
        Database::Sqlite { path } => Ok(Arc::new(SqliteStore::open(path)?.observed(observer))),
        Database::Postgres(config) => {
            let store = PostgresStore::connect(config.clone())?;
            Ok(Arc::new(store.observed(observer)))
        }
    }
}

/// Runs the coordinator until it is told to stop.
///
/// # Errors
/// If it cannot start.
pub fn run(config: Config) -> anyhow::Result<()> {
    // Workers and openers hold connections; a shell may grant few unasked.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        log::warn!("the limit on open files cannot be raised: {error}");
    }
    let tls = config.tls.clone().map(tls::Live::load).transpose();
    let tls = tls?.map(Arc::new);
    let socket = bind(config.bind).context("proxy_coordinator.bind_addr")?;
    migrate(&config)?;
    let rooms = Arc::new(Rooms::new(&config, tls.clone())?);
    let app = rooms.app(&config);

    let mut server = Server::new_with_opt_and_conf(None, server_conf(&config));
    server.bootstrap();
    server.add_service(background_service(
        "keeper",
        Keeper {
            rooms: Arc::clone(&rooms),
            worker_timeout: config.worker_timeout,
            keep: Keep {
                audit: config.audit.keep.0,
                tokens: config.tokens.keep.0,
            },
            failover: FailOver::new(
                Arc::clone(&rooms.store),
                rooms.bus.clone(),
                config.failover.across_hosts,
            ),
            collector: rooms.collector(config.idle_after),
            discovery: Discovery::new(rooms.services.clone(), config.discovery.docker.clone()),
            presence: Presence::new(&config.name, config.announce.clone()),
        },
    ));
    let mut serving = background_service(
        "api",
        Serving {
            app: Arc::new(Api::new(api::router(app), rooms.drain.clone())),
            rooms: Arc::clone(&rooms),
            socket: Mutex::new(Some(socket)),
            tls,
        },
    );
    serving.threads = Some(server.configuration.threads);
    server.add_service(serving);
    let signal = Box::new(Signal {
        rooms,
        grace: config.server.grace_period.0,
    });
    server.run(RunArgs {
        shutdown_signal: signal,
    });
    Ok(())
}

fn server_conf(config: &Config) -> ServerConf {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    ServerConf {
        threads: match config.server.threads {
            0 => cpus,
            threads => threads,
        },
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    }
}

/// What the services share.
struct Rooms {
    store: Arc<dyn Store>,
    redis: Option<Arc<Redis>>,
    streams: Arc<Streams>,
    services: Services,
    bus: Bus,
    /// Locked by the keeper while it runs.
    outbox: tokio::sync::Mutex<Outbox>,
    acknowledgements: Arc<Acknowledgements>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    relay: Option<Relay>,
    drain: Drain,
    /// Held by the one coordinator that looks after the workers.
    lease: Arc<Lease>,
    /// The keeper is to put everything down.
    closing: CancellationToken,
}

impl Rooms {
    fn new(config: &Config, tls: Option<Arc<tls::Live>>) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new(tls).context("the metrics cannot be registered")?);
        let relay = config.relay.enabled.then(Relay::new).transpose();
        let redis = config
            .redis
            .clone()
            .map(|settings| Arc::new(Redis::new(settings)));
        let streams = Arc::new(Streams::default());
        let (published, outbox) = Outbox::new();
        let mut ways: Vec<Arc<dyn Publisher>> = vec![Arc::clone(&streams) as _];
        ways.extend(redis.iter().map(|redis| Arc::clone(redis) as _));
        let [counts, delays, waits, works] = std::array::from_fn(|_| Arc::clone(&metrics));
        let observer: Observer = Arc::new(move |doing, took, done| works.stored(doing, took, done));
        let store = observed_store(&config.database, observer).context("db")?;
        let feeds = ServiceFeeds::new(Arc::clone(&store), redis.clone());
        Ok(Self {
            services: Services::new(Arc::clone(&store), Arc::new(feeds)),
            lease: Arc::new(Lease::new(Arc::clone(&store))),
            store,
            redis,
            streams,
            bus: Bus::new(ways, published, move |bus, taken| {
                counts.published(bus, taken)
            })
            .timed(Arc::new(move |bus, took| delays.published_after(bus, took))),
            outbox: tokio::sync::Mutex::new(outbox),
            acknowledgements: Arc::new(Acknowledgements::observed(Arc::new(move |served| {
                waits.waited(served)
            }))),
            health: Arc::new(Health::new(config.database.kind())),
            metrics,
            relay: relay.context("[relay]")?,
            drain: Drain::new(),
            closing: CancellationToken::new(),
        })
    }

    fn collector(&self, idle_after: Duration) -> Collector {
        let uses: Arc<dyn LastUses> = match &self.redis {
            Some(redis) => Arc::clone(redis) as _,
            None => Arc::new(ToldUses::new(Arc::clone(&self.store))),
        };
        let closer = Closer::new(Arc::clone(&self.store), self.bus.clone());
        Collector::new(Arc::clone(&self.store), closer, uses, idle_after)
    }

    fn app(&self, config: &Config) -> App {
        let rooms = api::Rooms {
            store: Arc::clone(&self.store),
            registry: Registry::new(Arc::clone(&self.store), self.redis.clone()),
            opener: Arc::new(Opener::new(
                Arc::clone(&self.store),
                self.bus.clone(),
                Arc::clone(&self.acknowledgements),
                config.server.acknowledgement_timeout.0,
            )),
            marks: Marks::new(
                Arc::clone(&self.store),
                self.redis.clone(),
                config.idle_after,
            ),
            endpoints: Arc::new(Endpoints::new(
                Arc::clone(&self.store),
                self.bus.clone(),
                Arc::clone(&self.acknowledgements),
                config.server.acknowledgement_timeout.0,
            )),
            closer: Closer::new(Arc::clone(&self.store), self.bus.clone()),
            streams: Arc::clone(&self.streams),
            services: self.services.clone(),
            acknowledgements: Arc::clone(&self.acknowledgements),
            health: Arc::clone(&self.health),
            metrics: Arc::clone(&self.metrics),
            drain: self.drain.clone(),
        };
        let settings = ApiSettings {
            api_secret: config.api_secret.clone(),
            jwt: config.jwt.clone(),
            advertise_url: config.advertise_url.clone(),
            allow_unauthorized_configure: config.allow_unauthorized_configure,
            metric_networks: config.metric_access.clone(),
            body_limit: config.server.body_limit.0,
            relay: self.relay.clone(),
        };
        App::new(rooms, settings)
    }
}

/// The service that looks after everything but requests.
struct Keeper {
    rooms: Arc<Rooms>,
    worker_timeout: Duration,
    keep: Keep,
    failover: FailOver,
    collector: Collector,
    discovery: Discovery,
    presence: Presence,
}

#[async_trait]
impl BackgroundService for Keeper {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let rooms = &self.rooms;
        let store = rooms.store.as_ref();
        let redis = async {
            let Some(redis) = &rooms.redis else { return };
            let link = || Box::pin(redis.run(store, &rooms.acknowledgements));
            let present = || self.presence.keep(redis);
            tokio::join!(
                supervise("link to redis", link),
                supervise("record in redis", present)
            );
        };
        let outbox = supervise("outbox", || async {
            let mut outbox = rooms.outbox.lock().await;
            outbox.run(&rooms.store, &rooms.bus, &rooms.streams).await;
        });
        let lease = rooms.lease.as_ref();
        let holding = supervise("lease", || lease.run());
        let watching = || {
            watch_over(store, lease, self.worker_timeout, |since| {
                self.failover.round(since)
            })
        };
        let liveness = supervise("watch over the workers", watching);
        let upkeep = supervise("upkeep", || keep_up(store, lease, self.keep));
        let looking = || rooms.health.watch(store, rooms.redis.as_deref());
        let health = supervise("health report", looking);
        let collecting = supervise("collection of idle circuits", || self.collector.run(lease));
        let services = supervise("telling of services", || rooms.services.feeds().run());
        let finding = supervise("discovery of services", || self.discovery.run(lease));
        let watchdog = Notify.feed_watchdog();
        let guarded = async { tokio::join!(holding, liveness, upkeep, collecting, finding) };
        let work = async { tokio::join!(redis, outbox, services, guarded, health, watchdog) };
        tokio::select! {
            _ = work => {}
            () = rooms.closing.cancelled() => {}
        }
    }
}

/// The service that answers requests.
struct Serving {
    app: Arc<Api>,
    rooms: Arc<Rooms>,
    socket: Mutex<Option<TcpListener>>,
    tls: Option<Arc<tls::Live>>,
}

#[async_trait]
impl BackgroundService for Serving {
    async fn start(&self, shutdown: ShutdownWatch) {
        let socket = self
            .socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(socket) = socket else { return };
        let rooms = &self.rooms;
        // One attempt, not a success: what is opened first should not have to be told late, but
        // without Redis the streams serve.
        if let Some(redis) = &rooms.redis {
            redis.attempted().await;
        }
        rooms
            .health
            .look(rooms.store.as_ref(), rooms.redis.as_deref())
            .await;
        match socket.local_addr() {
            Ok(address) => log::info!("ready: listening on {address}"),
            Err(_) => log::info!("ready"),
        }
        Notify.ready("serving");
        let (tls, app) = (self.tls.clone(), Arc::clone(&self.app));
        let watch = async {
            match &self.tls {
                Some(tls) => tls.watch().await,
                None => std::future::pending().await,
            }
        };
        let reload = || match &self.tls {
            Some(tls) => tls.reload(),
            None => log::info!("nothing to read anew: there is no certificate"),
        };
        let served = tokio::select! {
            served = accept(socket, tls, app, &rooms.drain, &shutdown) => served,
            () = at_every_hangup(reload) => Ok(()),
            () = watch => Ok(()),
        };
        if let Err(error) = served {
            log::error!("the API does not listen: {error}");
            std::process::exit(1);
        }
    }
}

/// Ends the process in order: requests in flight end, then the last notes are written. Pingora's
/// own waiting is skipped: it would sleep the whole grace.
struct Signal {
    rooms: Arc<Rooms>,
    grace: Duration,
}

#[async_trait]
impl ShutdownSignalWatch for Signal {
    async fn recv(&self) -> ShutdownSignal {
        let rooms = &self.rooms;
        let telling = async {
            rooms.drain.stopping().await;
            Notify.stopping();
        };
        let drained = rooms.drain.run_until_signalled(self.grace);
        tokio::pin!(drained);
        let outcome = tokio::select! {
            outcome = &mut drained => outcome,
            () = telling => drained.await,
        };
        match outcome {
            Ok(Outcome::Finished) => log::info!("all requests are done"),
            Ok(Outcome::GraceOver(left)) => log::warn!("the grace is over: {left} cut off"),
            Ok(Outcome::Forced(left)) => {
                log::warn!("stopped at once: {left} cut off");
                return ShutdownSignal::FastShutdown;
            }
            Err(ref error) => log::error!("signals cannot be awaited: {error}"),
        }
        rooms.closing.cancel();
        let notes = async {
            let mut outbox = rooms.outbox.lock().await;
            outbox.write_notes(rooms.store.as_ref()).await?;
            rooms.lease.give_back().await
        };
        match tokio::time::timeout(LAST_NOTES, notes).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::warn!("the last notes of events could not be kept: {error}"),
            Err(_) => log::warn!("the last notes of events could not be kept in time"),
        }
        ShutdownSignal::FastShutdown
    }
}
