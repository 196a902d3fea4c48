//! The service that runs the listeners: each gets its carrier, and each carrier its engine.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ipnet::IpNet;
use patchbay_common::circuit::Protocol;
use patchbay_listen::tls;
use pingora_core::apps::HttpServerApp as _;
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::background::BackgroundService;

use super::{API_CONNECTIONS, Rooms, Sockets, TrafficSockets, UPSTREAM_POOL};
use crate::admin::Admin;
use crate::conduct::{Conduct, Entrance, Sampling, StreamHabits};
use crate::frontend::{Acceptor, Carry, ConnectionGate, Guarding, HttpCarrier, Speak, TcpCarrier};
use crate::lane::Lane;
use crate::metrics::Metrics;
use crate::proxy::{Engine, Proxy};
use crate::setup::{Setup, Tickets};
use crate::stage::Stages;
use crate::sync::Link;
use crate::upstream::PeerTemplate;

/// The service that runs the listeners.
pub(super) struct Traffic {
    pub(super) rooms: Arc<Rooms>,
    pub(super) conf: Arc<ServerConf>,
    pub(super) tls: Option<Arc<tls::Live>>,
    pub(super) sockets: Mutex<Option<Sockets>>,
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
        let metrics = match Metrics::new(&rooms.table, &link, &rooms.gate, self.tls.clone()) {
            Ok(metrics) => {
                let gateway = rooms.gateway.as_ref();
                let metrics = metrics.by_remote(config.metrics.remote_label);
                Arc::new(metrics.with_gateway(gateway.map(|room| Arc::clone(&room.gateway))))
            }
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
            Arc::clone(&rooms.explain),
        ));
        let gate = Arc::new(ConnectionGate::new(API_CONNECTIONS));
        let guarded = self.guarding(admin);
        let carrier = self.carrier_of(guarded, self.tls.clone(), tls::Purpose::OpenApi);
        let api = self.acceptor(carrier, &gate);
        let gateway = self.serve_gateway(sockets.gateway, &link, &metrics, &tickets);
        let traffic = async {
            link.ready().await;
            log::info!("ready: {} circuits", rooms.table.len());
            if config.protocol == Protocol::Tcp {
                let carrier = self.tcp(&link, &metrics);
                self.serve(sockets.traffic, carrier).await;
            } else {
                let conduct = self.conduct(Entrance::Circuits, &link, &metrics, &tickets);
                let proxy = self.proxy(Arc::clone(&conduct));
                let proxy = Arc::new(Engine::new(&self.conf, proxy, &config.http2));
                let (tls, purpose) = (self.tls.clone(), tls::Purpose::Traffic);
                if config.server.fast_lane && speaks_http1(config.protocol) {
                    let carrier = self.carrier_of(self.lane(conduct, &proxy), tls, purpose);
                    self.serve(sockets.traffic, carrier).await;
                } else {
                    let app = self.guarding(Arc::clone(&proxy));
                    let carrier = self.carrier_of(app, tls, purpose);
                    self.serve(sockets.traffic, carrier).await;
                }
                // Idle connections are told now; the others after their request.
                rooms.drain.idle_may_end().await;
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

/// Whether apps of this protocol are spoken to in HTTP/1.
fn speaks_http1(protocol: Protocol) -> bool {
    !matches!(protocol, Protocol::Grpc | Protocol::H2)
}

async fn serve<C: Carry>(sockets: TrafficSockets, acceptor: Acceptor<C>) {
    match sockets {
        TrafficSockets::None => std::future::pending().await,
        TrafficSockets::Ports(range) => range.run(acceptor).await,
        TrafficSockets::Wildcard(listener) => {
            if let Err(error) = acceptor.run(listener).await {
                log::error!("the wildcard frontend does not listen: {error}");
            }
        }
    }
}

impl Traffic {
    pub(super) fn acceptor<C: Carry>(&self, carrier: C, gate: &Arc<ConnectionGate>) -> Acceptor<C> {
        let stopping = self.rooms.drain.watch();
        Acceptor::new(Arc::new(carrier), Arc::clone(gate), stopping)
    }

    /// Serves the traffic's sockets until the process stops, and waits for a successor meanwhile.
    async fn serve<C: Carry>(&self, sockets: TrafficSockets, carrier: C) {
        let rooms = &self.rooms;
        let status = format!("{} circuits", rooms.table.len());
        // In this order: the loops accept when the predecessor hears of it.
        let serving = serve(sockets, self.acceptor(carrier, &rooms.gate));
        tokio::pin!(serving);
        tokio::select! {
            biased;
            () = &mut serving => {}
            () = rooms.succession.accepting(&status) => serving.await,
        }
    }

    fn trusted(&self) -> Arc<[IpNet]> {
        self.rooms.config.proxy_protocol.trusted.as_slice().into()
    }

    pub(super) fn guarding<A>(&self, app: Arc<A>) -> Guarding<A> {
        let head_patience = self.rooms.config.timeouts.request_head.0;
        Guarding { app, head_patience }
    }

    pub(super) fn carrier_of<A: Speak>(
        &self,
        app: A,
        tls: Option<Arc<tls::Live>>,
        purpose: tls::Purpose,
    ) -> HttpCarrier<A> {
        HttpCarrier::new(app, tls, purpose, self.trusted())
    }

    /// The fast lane beside an engine.
    pub(super) fn lane(&self, conduct: Arc<Conduct>, other: &Arc<Engine>) -> Arc<Lane> {
        let other = Arc::clone(other);
        Arc::new(Lane::new(conduct, other, &self.rooms.config, UPSTREAM_POOL))
    }

    pub(super) fn proxy(&self, conduct: Arc<Conduct>) -> Proxy {
        let timeouts = &self.rooms.config.timeouts;
        Proxy {
            conduct,
            peers: self.peers(),
            keepalive: timeouts.keepalive.0.as_secs().max(1),
        }
    }

    pub(super) fn conduct(
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
        let tunnels = self.calls(&entrance);
        Arc::new(Conduct {
            entrance,
            stages,
            prober: Arc::clone(&rooms.prober),
            tickets: Arc::clone(tickets),
            activity: Arc::clone(link.activity()),
            metrics: Arc::clone(metrics),
            access_log: Arc::clone(&rooms.access_log),
            sampling: Sampling::new(
                rooms.config.server.access_log_every.get().into(),
                rooms.config.server.slow_request.0,
            ),
            drain: rooms.drain.clone(),
            tunnels,
            explain: Arc::clone(&rooms.explain),
            limits: rooms.config.limits.clone(),
            timeouts: rooms.config.timeouts.clone(),
            stream_habits: StreamHabits {
                log_messages: rooms.config.server.websocket_messages,
                data_is_use: rooms.config.sync.data_is_use,
            },
        })
    }

    pub(super) fn peers(&self) -> PeerTemplate {
        let config = &self.rooms.config;
        PeerTemplate::new(
            &config.timeouts,
            &config.http2,
            Arc::clone(&self.rooms.tunnels),
        )
    }

    fn tcp(&self, link: &Link, metrics: &Arc<Metrics>) -> TcpCarrier {
        let rooms = &self.rooms;
        TcpCarrier {
            table: Arc::clone(&rooms.table),
            port_offset: crate::stage::port_offset(&rooms.config.frontend),
            peers: self.peers(),
            prober: Arc::clone(&rooms.prober),
            activity: Arc::clone(link.activity()),
            metrics: Arc::clone(metrics),
            access_log: Arc::clone(&rooms.access_log),
            drain: rooms.drain.clone(),
            timeouts: rooms.config.timeouts.clone(),
            data_is_use: rooms.config.sync.data_is_use,
            trusted: self.trusted(),
            announce: rooms.config.proxy_protocol.upstream,
        }
    }
}
