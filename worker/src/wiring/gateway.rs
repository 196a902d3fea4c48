//! The gateway's listeners.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use patchbay_common::config::{Loader, Mistake};
use patchbay_listen::{ListenError, bind, tls};
use tokio::sync::watch;

use super::Traffic;
use crate::conduct::Entrance;
use crate::config::{Config, RedisSettings};
use crate::frontend::Carry;
use crate::gateway::Gateway;
use crate::gateway::chain::Ledger;
use crate::gateway::config::GatewayConfig;
use crate::handover::Listeners;
use crate::metrics::Metrics;
use crate::proxy::Engine;
use crate::setup::Tickets;
use crate::sync::{Link, RedisLedger, Services};
use crate::upstream::Prober;

/// The gateway and what its listeners need.
pub(super) struct Room {
    pub(super) gateway: Arc<Gateway>,
    pub(super) tls: Option<Arc<tls::Live>>,
    /// Where limits are shared.
    pub(super) ledger: Option<Arc<RedisLedger>>,
}

impl Room {
    pub(super) fn new(
        config: &GatewayConfig,
        redis: Option<&RedisSettings>,
        prober: &Arc<Prober>,
    ) -> anyhow::Result<Self> {
        let tls = config.tls.clone().map(tls::Live::load).transpose();
        let tls = tls?.map(Arc::new);
        let ledger = redis.map(RedisLedger::new);
        let shared = ledger.clone().map(|ledger| ledger as Arc<dyn Ledger>);
        Ok(Self {
            gateway: Gateway::new(config, Arc::clone(prober), shared),
            tls,
            ledger,
        })
    }

    /// Reads the certificate anew.
    pub(super) fn reload_tls(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
    }
}

/// Loads what the start would load, without keeping it, and notes what is wrong.
pub(super) fn examine(config: &GatewayConfig, loader: &mut Loader) {
    if let Some(plan) = &config.tls {
        tls::examine(plan, loader);
    }
    for address in &config.binds {
        // Port 0: the check must not mind a worker that is running.
        if let Err(error) = bind(SocketAddr::new(address.ip(), 0)) {
            loader.mistake(Mistake::new("gateway.bind", error));
        }
    }
}

/// Keeps what the gateway shares with other workers within reach, and its services as the
/// coordinator says, for as long as the process lives.
pub(super) async fn keep(room: Option<&Room>, services: Option<watch::Receiver<Services>>) {
    let Some(room) = room else { return };
    let share = async {
        if let Some(ledger) = &room.ledger {
            ledger.run().await;
        }
    };
    let follow = async {
        if let Some(services) = services {
            room.follow(services).await;
        }
    };
    tokio::join!(share, follow);
}

impl Room {
    async fn follow(&self, mut services: watch::Receiver<Services>) {
        let mut known = None;
        loop {
            let list = Arc::clone(&services.borrow_and_update().list);
            // The generation may have moved alone.
            if !known
                .as_ref()
                .is_some_and(|known| Arc::ptr_eq(known, &list))
            {
                self.gateway.told(Arc::clone(&list));
                known = Some(list);
            }
            if services.changed().await.is_err() {
                return;
            }
        }
    }
}

pub(super) fn bind_all(
    config: &Config,
    listeners: &Listeners,
) -> Result<Vec<TcpListener>, ListenError> {
    let binds = config.gateway.iter().flat_map(|gateway| &gateway.binds);
    binds.map(|address| listeners.listen(*address)).collect()
}

impl Traffic {
    /// Serves the gateway until the process stops.
    pub(super) async fn serve_gateway(
        &self,
        sockets: Vec<TcpListener>,
        link: &Link,
        metrics: &Arc<Metrics>,
        tickets: &Arc<Tickets>,
    ) {
        let Some(room) = &self.rooms.gateway else {
            return;
        };
        let entrance = Entrance::Gateway(Arc::clone(&room.gateway));
        let conduct = self.conduct(entrance, link, metrics, tickets);
        let config = &self.rooms.config;
        let mut proxy = self.proxy(Arc::clone(&conduct));
        if let Some(gateway) = &config.gateway {
            proxy.peers = proxy.peers.keeping(gateway.pool_idle.0);
        }
        let proxy = Arc::new(Engine::new(&self.conf, proxy, &config.http2));
        let (routes, services) = room.gateway.size();
        log::info!("the gateway is ready: {routes} routes to {services} services");
        let (tls, purpose) = (room.tls.clone(), tls::Purpose::Traffic);
        if config.server.fast_lane {
            let carrier = self.carrier_of(self.lane(conduct, &proxy), tls, purpose);
            self.accept_all(sockets, carrier).await;
        } else {
            let carrier = self.carrier_of(self.guarding(Arc::clone(&proxy)), tls, purpose);
            self.accept_all(sockets, carrier).await;
        }
        self.rooms.drain.idle_may_end().await;
        // Idle connections are told now; the others after their request.
        pingora_core::apps::HttpServerApp::http_cleanup(&*proxy).await;
    }

    /// Accepts on all of the gateway's sockets until the process stops.
    async fn accept_all<C: Carry>(&self, sockets: Vec<TcpListener>, carrier: C) {
        let acceptor = self.acceptor(carrier, &self.rooms.gate);
        let loops = sockets
            .into_iter()
            .map(|socket| acceptor.clone().run(socket));
        for ended in futures_util::future::join_all(loops).await {
            if let Err(error) = ended {
                log::error!("the gateway does not listen: {error}");
            }
        }
    }
}
