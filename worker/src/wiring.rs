//! Puts the rooms together. The only file that knows them all.
//!
//! Two Pingora services, each with a runtime of its own: `sync` keeps the table, `traffic` runs
//! every listener. Sockets are bound before either starts, so that an address that is taken is
//! one clear line and an exit, and accepted from only when the circuits are known.

mod ending;
mod gateway;
mod reload;
mod succession;
mod traffic;
mod tunnels;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use async_trait::async_trait;
use dashmap::DashSet;
use patchbay_common::circuit::Slot;
use patchbay_common::config::{Loader, Mistake};
use patchbay_common::lifecycle::{Drain, Notify, at_every_hangup};
use patchbay_common::tunnel::TunnelId;
use patchbay_listen::{ListenError, bind, tls};
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownWatch};
use pingora_core::services::background::{BackgroundService, background_service};
use tokio::sync::watch;

pub use reload::Source;

use ending::Signal;
use succession::Succession;
use traffic::Traffic;

use crate::access_log::AccessLog;
use crate::config::{Config, Frontend};
use crate::context::MAX_ATTEMPTS;
use crate::explain::Explain;
use crate::frontend::{ConnectionGate, PortRange};
use crate::handover::Listeners;
use crate::sync::{Link, RouteReporter, Serving};
use crate::table::Table;
use crate::tunnel::Registry;
use crate::upstream::Prober;

/// Idle upstream connections kept for all circuits together.
const UPSTREAM_POOL: usize = 4_096;
/// Most connections to the API: monitoring must get through when traffic is at its limit.
const API_CONNECTIONS: usize = 1_024;

/// Loads what the start would load, without keeping it, and notes what is wrong.
pub fn examine(config: &Config, loader: &mut Loader) {
    if let Some(plan) = &config.tls {
        tls::examine(plan, loader);
    }
    let mut try_address = |key: &str, address: SocketAddr| {
        // Port 0: the check must not mind a worker that is running.
        if let Err(error) = bind(SocketAddr::new(address.ip(), 0)) {
            loader.mistake(Mistake::new(format!("proxy_worker.{key}"), error));
        }
    };
    try_address("api_bind_addr", config.api_bind);
    match &config.frontend {
        _ if !config.has_circuits => {}
        Frontend::Port { bind, range, .. } => {
            try_address("port_proxy.bind_host", SocketAddr::new(*bind, range.0));
        }
        Frontend::Wildcard { bind, .. } => try_address("wildcard_domain.bind_addr", *bind),
    }
    if let Some(config) = &config.gateway {
        gateway::examine(config, loader);
    }
}

/// Runs the worker until it is told to stop.
///
/// # Errors
/// If it cannot start.
pub fn run(config: Config, source: Source) -> anyhow::Result<()> {
    raise_file_limit();
    let tls = config.tls.clone().map(tls::Live::load).transpose();
    let tls = tls?.map(Arc::new);
    let succession = Succession::begin(&config)?;
    let sockets = Sockets::bind(&config, &succession.listeners)?;
    let format = config.log_format;
    let tunnels = tunnels::registry(&config);
    let prober = Prober::new(Arc::new(config.upstreams.clone()));
    let prober = Arc::new(prober.lending(Arc::clone(&tunnels)));
    let gateway = config.gateway.as_ref();
    let redis = config.redis.as_ref();
    let gateway = gateway.map(|config| gateway::Room::new(config, redis, &prober));
    let gateway = gateway.transpose()?;
    let rooms = Arc::new(Rooms {
        table: Arc::new(Table::watched(Arc::clone(&prober))),
        drain: Drain::new(),
        prober,
        gate: Arc::new(ConnectionGate::per_address(
            config.server.max_connections,
            config.limits.connections_per_address,
        )),
        access_log: Arc::new(
            AccessLog::start(config.server.access_log, format)
                .context("the access log cannot be started")?,
        ),
        explain: Arc::new(Explain::new(config.server.explain_requests)),
        link: watch::channel(None).0,
        gateway,
        tunnels,
        succession,
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
            source,
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
    explain: Arc<Explain>,
    /// The line to the coordinator, once it is up.
    link: watch::Sender<Option<Arc<Link>>>,
    /// The gateway, if there is one.
    gateway: Option<gateway::Room>,
    /// Tunnels; empty for ever where agents may not register.
    tunnels: Arc<Registry>,
    succession: Succession,
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
    fn bind(config: &Config, listeners: &Arc<Listeners>) -> Result<Self, ListenError> {
        Ok(Self {
            api: listeners.listen(config.api_bind)?,
            gateway: gateway::bind_all(config, listeners)?,
            tunnels: tunnels::bind_all(config, listeners)?,
            traffic: match &config.frontend {
                _ if !config.has_circuits => TrafficSockets::None,
                Frontend::Port { bind, range, .. } => {
                    TrafficSockets::Ports(PortRange::bind(listeners, *bind, *range)?)
                }
                Frontend::Wildcard { bind: address, .. } => {
                    TrafficSockets::Wildcard(listeners.listen(*address)?)
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
    source: Source,
    rooms: Arc<Rooms>,
    tls: Option<Arc<tls::Live>>,
    ports: Option<Arc<DashSet<u16>>>,
}

impl Syncing {
    /// The way to the coordinator. Without one nothing works and nothing has begun: the process
    /// ends.
    fn link(&self) -> Arc<Link> {
        let rooms = &self.rooms;
        let serving = Arc::new(BoundPorts {
            ports: self.ports.clone(),
            offset: crate::stage::port_offset(&rooms.config.frontend),
            rooms: Arc::clone(rooms),
        });
        let link = if rooms.config.has_circuits {
            Link::start(&rooms.config, Arc::clone(&rooms.table), serving)
        } else {
            Link::alone(&rooms.config)
        };
        match link {
            Ok(link) => Arc::new(link),
            Err(error) => {
                log::error!("the coordinator cannot be spoken to: {error}");
                std::process::exit(1);
            }
        }
    }
}

#[async_trait]
impl BackgroundService for Syncing {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let rooms = &self.rooms;
        let link = self.link();
        let reporter = RouteReporter {
            coordinator: link.coordinator().clone(),
            table: Arc::clone(&rooms.table),
            changes: rooms.prober.changes(),
            status: link.watch(),
        };
        let keeping = gateway::keep(rooms.gateway.as_ref(), link.services());
        let teller = tunnels::teller(rooms, &link);
        rooms.link.send_replace(Some(link));
        if let Some(gateway) = &rooms.gateway {
            gateway.gateway.start();
        }
        let hangup = tokio::sync::Notify::new();
        let reload = || {
            hangup.notify_one();
            if let Some(tls) = &self.tls {
                tls.reload();
            }
            match &rooms.gateway {
                Some(gateway) => gateway.reload_tls(),
                None => rooms.succession.reload(),
            }
        };
        let gateway = rooms.gateway.as_ref().and_then(|room| room.tls.as_ref());
        let watched = self.tls.iter().chain(gateway).map(|tls| tls.watch());
        let watch = futures_util::future::join_all(watched);
        let follow = async {
            if let (Some(room), Some(started)) = (&rooms.gateway, &rooms.config.gateway) {
                reload::follow(&self.source, room, &rooms.tunnels, started, &hangup).await;
            }
        };
        tokio::join!(
            follow,
            keeping,
            Arc::clone(&rooms.prober).run(),
            rooms.tunnels.sweep(),
            reporter.run(),
            async {
                if let Some(teller) = teller {
                    teller.run().await;
                }
            },
            Notify.feed_watchdog(),
            at_every_hangup(reload),
            watch,
            rooms.succession.provide()
        );
    }
}

/// A circuit is served if its port could be bound.
struct BoundPorts {
    rooms: Arc<Rooms>,
    ports: Option<Arc<DashSet<u16>>>,
    offset: i32,
}

impl Serving for BoundPorts {
    fn serves(&self, slot: &Slot) -> bool {
        if self.rooms.succession.is_given() {
            // The successor speaks for the worker.
            return false;
        }
        match (slot, &self.ports) {
            (Slot::Port(port), Some(bound)) => u16::try_from(i32::from(*port) - self.offset)
                .is_ok_and(|port| bound.contains(&port)),
            (Slot::Subdomain(_), None) => true,
            _ => false,
        }
    }
}
