//! Tunnels: their registry, and the ports that lead to them.

use std::net::TcpListener;
use std::sync::Arc;

use patchbay_common::tunnel::TunnelId;
use patchbay_listen::ListenError;

use super::{Rooms, Traffic};
use crate::conduct::Entrance;
use crate::config::Config;
use crate::frontend::TunnelCarrier;
use crate::handover::Listeners;
use crate::metrics::Metrics;
use crate::sync::{Link, TunnelTeller};
use crate::tunnel::{Calls, Registry, Settings};

pub(super) fn registry(config: &Config) -> Arc<Registry> {
    let settings = config.tunnels.clone();
    Arc::new(Registry::new(settings.unwrap_or_else(Settings::closed)))
}

/// What keeps several gateways of one coordinator together.
pub(super) fn teller(rooms: &Rooms, link: &Link) -> Option<TunnelTeller> {
    let config = &rooms.config;
    let several = config.tunnels.is_some() && config.has_circuits;
    several.then(|| TunnelTeller {
        coordinator: link.coordinator().clone(),
        registry: Arc::clone(&rooms.tunnels),
        node: config.node_id.clone(),
        status: link.watch(),
        drain: rooms.drain.clone(),
    })
}

pub(super) fn bind_all(
    config: &Config,
    listeners: &Listeners,
) -> Result<Vec<(TcpListener, TunnelId)>, ListenError> {
    let ports = config.tunnels.iter().flat_map(|settings| &settings.tcp);
    ports
        .map(|port| Ok((listeners.listen(port.bind)?, port.tunnel.clone())))
        .collect()
}

impl Traffic {
    /// What answers agents and operators at the gateway, where agents may register.
    pub(super) fn calls(&self, entrance: &Entrance) -> Option<Arc<Calls>> {
        if matches!(entrance, Entrance::Circuits) {
            return None;
        }
        let rooms = &self.rooms;
        let calls = || Arc::new(Calls::new(Arc::clone(&rooms.tunnels)));
        rooms.config.tunnels.as_ref().map(|_| calls())
    }

    /// Carries the connections of ports to tunnels until the process stops.
    pub(super) async fn serve_tunnel_ports(
        &self,
        sockets: Vec<(TcpListener, TunnelId)>,
        metrics: &Arc<Metrics>,
    ) {
        let rooms = &self.rooms;
        let loops = sockets.into_iter().map(|(socket, id)| {
            let carrier = TunnelCarrier::new(
                &id,
                self.peers(),
                Arc::clone(metrics),
                Arc::clone(&rooms.access_log),
                rooms.drain.clone(),
            );
            self.acceptor(carrier, &rooms.gate).run(socket)
        });
        for ended in futures_util::future::join_all(loops).await {
            if let Err(error) = ended {
                log::error!("a tunnel's port does not listen: {error}");
            }
        }
    }
}
