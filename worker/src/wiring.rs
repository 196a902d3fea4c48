//! Puts the rooms together. The only file that knows them all.
//!
//! Two Pingora services, each with a runtime of its own: `sync` keeps the table, `traffic` runs
//! every listener. Sockets are bound before either starts, so that an address that is taken is
//! one clear line and an exit, and accepted from only when the circuits are known.

mod gateway;
mod tunnels;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use dashmap::DashSet;
use patchbay_common::circuit::{Protocol, Slot};
use patchbay_common::lifecycle::{Drain, Notify, Outcome, at_every_hangup};
use patchbay_common::tunnel::TunnelId;
use pingora_core::apps::HttpServerApp as _;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora_core::services::background::{BackgroundService, background_service};
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::admin::Admin;
use crate::conduct::{Conduct, Entrance};
use crate::config::{Config, Frontend};
use crate::context::MAX_ATTEMPTS;
use crate::frontend::{
    Acceptor, Carry, ConnectionGate, HttpCarrier, ListenError, LiveTls, PortRange, TcpCarrier,
    bind, load_tls, reload_tls,
};
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::setup::{Setup, Tickets};
use crate::stage::Stages;
use crate::sync::{Link, Serving};
use crate::table::Table;
use crate::tunnel::Registry;
use crate::upstream::{PeerTemplate, Prober};

/// Idle upstream connections kept for all circuits together.
const UPSTREAM_POOL: usize = 4_096;
/// How long the last marks of use may take to be written.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// Everything the start would load, without keeping it: what is wrong, one line each.
pub fn check(config: &Config) -> Vec<String> {
    let mut mistakes = Vec::new();
    if let Some(files) = &config.tls
        && let Err(error) = load_tls(files)
    {
        mistakes.push(format!("proxy_worker.{error}"));
    }
    try_address(&mut mistakes, "api_bind_addr", config.api_bind);
    if let Some(config) = &config.gateway {
        mistakes.extend(gateway::check(config));
    }
    match &config.frontend {
        _ if !config.has_circuits => {}
        Frontend::Port { bind, range, .. } => {
            let address = SocketAddr::new(*bind, range.0);
            try_address(&mut mistakes, "port_proxy.bind_host", address);
        }
        Frontend::Wildcard { bind, .. } => {
            try_address(&mut mistakes, "wildcard_domain.bind_addr", *bind);
        }
    }
    mistakes
}

fn try_address(mistakes: &mut Vec<String>, key: &str, address: SocketAddr) {
    // Port 0: the check must not mind a worker that is running.
    if let Err(error) = bind(SocketAddr::new(address.ip(), 0)) {
        mistakes.push(format!("proxy_worker.{key}: {error}"));
    }
}

/// Runs the worker until it is told to stop.
///
/// # Errors
/// If it cannot start.
pub fn run(config: Config) -> anyhow::Result<()> {
    raise_file_limit();
    let tls = config.tls.as_ref().map(load_tls).transpose()?;
    let tls = tls.map(|tls| Arc::new(ArcSwap::new(tls)));
    let sockets = Sockets::bind(&config)?;
    let gateway = config
        .gateway
        .as_ref()
        .map(gateway::Room::new)
        .transpose()?;
    let format = config.log_format;
    let rooms = Arc::new(Rooms {
        table: Arc::new(Table::new()),
        drain: Drain::new(),
        prober: Arc::new(Prober::default()),
        gate: Arc::new(ConnectionGate::new(config.server.max_connections)),
        access_log: Arc::new(
            AccessLog::start(config.server.access_log, format)
                .context("the access log cannot be started")?,
        ),
        link: watch::channel(None).0,
        gateway,
        tunnels: tunnels::registry(&config),
        config,
    });

    let conf = server_conf(&rooms.config);
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let signal = Box::new(Signal(Arc::clone(&rooms)));
    let ports = sockets.open_ports();
    server.add_service(background_service(
        "sync",
        Syncing {
            rooms: Arc::clone(&rooms),
            tls: tls.clone(),
            ports,
        },
    ));
    let mut traffic = background_service(
        "traffic",
        Traffic {
            conf: Arc::clone(&server.configuration),
            rooms: Arc::clone(&rooms),
            tls,
            sockets: Mutex::new(Some(sockets)),
        },
    );
    traffic.threads = Some(server.configuration.threads);
    server.add_service(traffic);
    server.run(RunArgs {
        shutdown_signal: signal,
    });
    Ok(())
}

/// What the services share.
struct Rooms {
    config: Config,
    table: Arc<Table>,
    drain: Drain,
    prober: Arc<Prober>,
    gate: Arc<ConnectionGate>,
    access_log: Arc<AccessLog>,
    /// The line to the coordinator, once it is up.
    link: watch::Sender<Option<Arc<Link>>>,
    /// The gateway, if there is one.
    gateway: Option<gateway::Room>,
    /// Tunnels; empty for ever where agents may not register.
    tunnels: Arc<Registry>,
}

impl Rooms {
    async fn link(&self) -> Arc<Link> {
        let mut receiver = self.link.subscribe();
        loop {
            if let Some(link) = receiver.borrow_and_update().clone() {
                return link;
            }
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

fn server_conf(config: &Config) -> ServerConf {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    ServerConf {
        threads: match config.server.threads {
            0 => cpus,
            threads => threads,
        },
        // Runtimes of one thread each: a connection stays where its memory is.
        work_stealing: false,
        upstream_keepalive_pool_size: UPSTREAM_POOL,
        max_retries: MAX_ATTEMPTS,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    }
}

/// A port range may need more descriptors than a shell grants unasked.
fn raise_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        log::warn!("the limit on open files cannot be raised: {error}");
    }
}

/// The bound sockets.
struct Sockets {
    api: TcpListener,
    traffic: TrafficSockets,
    gateway: Vec<TcpListener>,
    tunnels: Vec<(TcpListener, TunnelId)>,
}

enum TrafficSockets {
    None,
    Ports(PortRange),
    Wildcard(TcpListener),
}

impl Sockets {
    fn bind(config: &Config) -> Result<Self, ListenError> {
        Ok(Self {
            api: bind(config.api_bind)?,
            gateway: gateway::bind_all(config)?,
            tunnels: tunnels::bind_all(config)?,
            traffic: match &config.frontend {
                _ if !config.has_circuits => TrafficSockets::None,
                Frontend::Port { bind, range, .. } => {
                    TrafficSockets::Ports(PortRange::bind(*bind, *range)?)
                }
                Frontend::Wildcard { bind: address, .. } => {
                    TrafficSockets::Wildcard(bind(*address)?)
                }
            },
        })
    }

    fn open_ports(&self) -> Option<Arc<DashSet<u16>>> {
        match &self.traffic {
            TrafficSockets::Ports(range) => Some(range.open()),
            TrafficSockets::Wildcard(_) | TrafficSockets::None => None,
        }
    }
}

/// The service that keeps the table.
struct Syncing {
    rooms: Arc<Rooms>,
    tls: Option<LiveTls>,
    ports: Option<Arc<DashSet<u16>>>,
}

#[async_trait]
impl BackgroundService for Syncing {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let rooms = &self.rooms;
        let serving = Arc::new(BoundPorts {
            ports: self.ports.clone(),
            offset: crate::stage::port_offset(&rooms.config.frontend),
        });
        let link = if rooms.config.has_circuits {
            Link::start(&rooms.config, Arc::clone(&rooms.table), serving)
        } else {
            Link::alone(&rooms.config)
        };
        let link = match link {
            Ok(link) => Arc::new(link),
            Err(error) => {
                // Nothing works without it, and nothing has begun.
                log::error!("the coordinator cannot be spoken to: {error}");
                std::process::exit(1);
            }
        };
        rooms.link.send_replace(Some(link));
        if let Some(gateway) = &rooms.gateway {
            gateway.gateway.start();
        }
        let reload = || {
            if let (Some(files), Some(tls)) = (&rooms.config.tls, &self.tls) {
                reload_tls(files, tls);
            }
            if let Some(gateway) = &rooms.gateway {
                gateway.reload_tls();
            }
            tunnels::reload_tokens(rooms);
            if self.tls.is_none() && rooms.gateway.is_none() {
                log::info!("nothing to read anew: there are no certificates");
            }
        };
        tokio::join!(
            rooms.prober.run(&rooms.tunnels),
            rooms.tunnels.sweep(),
            Notify.feed_watchdog(),
            at_every_hangup(reload)
        );
    }
}

/// A circuit is served if its port could be bound.
struct BoundPorts {
    ports: Option<Arc<DashSet<u16>>>,
    offset: i32,
}

impl Serving for BoundPorts {
    fn serves(&self, slot: &Slot) -> bool {
        match (slot, &self.ports) {
            (Slot::Port(port), Some(bound)) => u16::try_from(i32::from(*port) - self.offset)
                .is_ok_and(|port| bound.contains(&port)),
            (Slot::Subdomain(_), None) => true,
            _ => false,
        }
    }
}

/// The service that runs the listeners.
struct Traffic {
    rooms: Arc<Rooms>,
    conf: Arc<ServerConf>,
    tls: Option<LiveTls>,
    sockets: Mutex<Option<Sockets>>,
}

#[async_trait]
impl BackgroundService for Traffic {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let sockets = self
            .sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(sockets) = sockets else { return };
        let rooms = &self.rooms;
        let link = rooms.link().await;
        let config = &rooms.config;
        let metrics = match Metrics::new(&rooms.table, &link, &rooms.gate) {
            Ok(metrics) => Arc::new(metrics),
            Err(error) => {
                log::error!("the metrics cannot be registered: {error}");
                std::process::exit(1);
            }
        };
        let tickets = Arc::new(Tickets::new(config));
        let setup = Setup::new(config, Arc::clone(&rooms.table), link.coordinator().clone());
        let admin = Arc::new(Admin::new(
            config,
            setup,
            Arc::clone(&link),
            Arc::clone(&metrics),
        ));
        let api = self.acceptor(self.carrier(admin));
        let gateway = self.serve_gateway(sockets.gateway, &link, &metrics, &tickets);
        let traffic = async {
            link.ready().await;
            Notify.ready(&format!("{} circuits", rooms.table.len()));
            log::info!("ready: {} circuits", rooms.table.len());
            if config.protocol == Protocol::Tcp {
                let carrier = self.tcp(&link, &metrics);
                serve(sockets.traffic, self.acceptor(carrier)).await;
            } else {
                let conduct = self.conduct(Entrance::Circuits, &link, &metrics, &tickets);
                let proxy = self.proxy(conduct);
                let proxy = Arc::new(pingora_proxy::http_proxy(&self.conf, proxy));
                let carrier = self.carrier(Arc::clone(&proxy));
                serve(sockets.traffic, self.acceptor(carrier)).await;
                // Idle connections are told now; the others after their request.
                proxy.http_cleanup().await;
            }
        };
        let ports = self.serve_tunnel_ports(sockets.tunnels, &metrics);
        let (api, (), (), ()) = tokio::join!(api.run(sockets.api), traffic, gateway, ports);
        if let Err(error) = api {
            log::error!("the API does not listen: {error}");
        }
    }
}

async fn serve<C: Carry>(sockets: TrafficSockets, acceptor: Acceptor<C>) {
    match sockets {
        TrafficSockets::None => {}
        TrafficSockets::Ports(range) => range.run(acceptor).await,
        TrafficSockets::Wildcard(listener) => {
            if let Err(error) = acceptor.run(listener).await {
                log::error!("the wildcard frontend does not listen: {error}");
            }
        }
    }
}

impl Traffic {
    fn acceptor<C: Carry>(&self, carrier: C) -> Acceptor<C> {
        let rooms = &self.rooms;
        Acceptor::new(
            Arc::new(carrier),
            Arc::clone(&rooms.gate),
            rooms.drain.watch(),
        )
    }

    fn carrier<A>(&self, app: Arc<A>) -> HttpCarrier<A> {
        let patience = self.rooms.config.timeouts.request_head.0;
        HttpCarrier::new(app, self.tls.clone(), patience)
    }

    fn proxy(&self, conduct: Arc<Conduct>) -> Proxy {
        let timeouts = &self.rooms.config.timeouts;
        Proxy {
            conduct,
            peers: PeerTemplate::new(timeouts, Arc::clone(&self.rooms.tunnels)),
            keepalive: timeouts.keepalive.0.as_secs().max(1),
        }
    }

    fn conduct(
        &self,
        entrance: Entrance,
        link: &Link,
        metrics: &Arc<Metrics>,
        tickets: &Arc<Tickets>,
    ) -> Arc<Conduct> {
        let rooms = &self.rooms;
        let table = Arc::clone(&rooms.table);
        let stages = match (&entrance, &rooms.config.gateway) {
            (Entrance::Gateway(_), Some(gateway)) => {
                Stages::at_gateway(&rooms.config, gateway, table)
            }
            _ => Stages::new(&rooms.config, table),
        };
        let tunnels = match &entrance {
            Entrance::Gateway(_) => self.calls(),
            Entrance::Circuits => None,
        };
        Arc::new(Conduct {
            entrance,
            stages,
            prober: Arc::clone(&rooms.prober),
            tickets: Arc::clone(tickets),
            activity: Arc::clone(link.activity()),
            metrics: Arc::clone(metrics),
            access_log: Arc::clone(&rooms.access_log),
            drain: rooms.drain.clone(),
            tunnels,
        })
    }

    fn tcp(&self, link: &Link, metrics: &Arc<Metrics>) -> TcpCarrier {
        let rooms = &self.rooms;
        TcpCarrier {
            table: Arc::clone(&rooms.table),
            port_offset: crate::stage::port_offset(&rooms.config.frontend),
            peers: PeerTemplate::new(&rooms.config.timeouts, Arc::clone(&rooms.tunnels)),
            prober: Arc::clone(&rooms.prober),
            activity: Arc::clone(link.activity()),
            metrics: Arc::clone(metrics),
            access_log: Arc::clone(&rooms.access_log),
            drain: rooms.drain.clone(),
        }
    }
}

/// Ends the process in order: the coordinator is told first, then what is in flight ends, then
/// the last marks are written. Pingora's own waiting is skipped: it would sleep the whole grace.
struct Signal(Arc<Rooms>);

#[async_trait]
impl ShutdownSignalWatch for Signal {
    async fn recv(&self) -> ShutdownSignal {
        let rooms = &self.0;
        let link = || rooms.link.borrow().clone();
        let goodbye = async {
            rooms.drain.stopping().await;
            Notify.stopping();
            if let Some(link) = link() {
                link.leave().await;
            }
        };
        let grace = rooms.config.server.grace_period.0;
        let drained = async {
            let outcome = rooms.drain.run_until_signalled(grace).await;
            match outcome {
                Ok(Outcome::Finished) => log::info!("all requests are done"),
                Ok(Outcome::GraceOver(left)) => log::warn!("the grace is over: {left} cut off"),
                Ok(Outcome::Forced(left)) => log::warn!("stopped at once: {left} cut off"),
                Err(ref error) => log::error!("signals cannot be awaited: {error}"),
            }
            outcome
        };
        tokio::pin!(goodbye);
        tokio::pin!(drained);
        let outcome = tokio::select! {
            outcome = &mut drained => {
                if matches!(outcome, Ok(Outcome::Finished)) {
                    goodbye.await;
                }
                outcome
            }
            () = &mut goodbye => drained.await,
        };
        if !matches!(outcome, Ok(Outcome::Forced(_)))
            && let Some(link) = link()
            && tokio::time::timeout(LAST_WRITES, link.stop())
                .await
                .is_err()
        {
            log::warn!("the last marks of use could not be written in time");
        }
        ShutdownSignal::FastShutdown
    }
}
