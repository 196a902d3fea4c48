//! Making the worker known: registration at start, and again whenever the coordinator has
//! forgotten it.

use std::time::Duration;

use patchbay_common::id::WorkerId;
use patchbay_common::worker::Registration;

use super::backoff::{Backoff, Outage};
use super::client::Coordinator;
use super::status::{Board, Reach};
use crate::config::{Config, Frontend};

/// Between attempts that the coordinator refuses: its answer will not change by itself.
const REFUSED: Duration = Duration::from_secs(5);

/// What this worker says of itself.
pub fn registration(config: &Config) -> Registration {
    let mut out = Registration {
        authority: config.authority.clone(),
        frontend_mode: config.frontend.mode(),
        protocol: config.protocol,
        hostname: config.api_advertised.host.clone(),
        tls_listen: config.tls.is_some(),
        tls_advertised: config.tls_advertised,
        api_port: config.api_advertised.port,
        accepted_traffics: config.accepted_traffics.clone(),
        filtered_apps_only: config.filtered_apps_only,
        app_filters: config.app_filters.clone(),
        traefik_last_used_marker_path: None,
        port_range: None,
        wildcard_domain: None,
        wildcard_traffic_port: None,
        node_id: Some(config.node_id.clone()),
    };
    match &config.frontend {
        Frontend::Port {
            range,
            advertised_first,
            ..
        } => {
            let length = range.1 - range.0;
            out.port_range = Some((*advertised_first, advertised_first.saturating_add(length)));
        }
        Frontend::Wildcard {
            domain,
            advertised_port,
            ..
        } => {
            out.wildcard_domain = Some(domain.clone());
            out.wildcard_traffic_port = Some(*advertised_port);
        }
    }
    out
}

/// Registers, however long it takes.
pub(super) async fn register(
    coordinator: &Coordinator,
    registration: &Registration,
    board: &Board,
) -> WorkerId {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut outage = Outage::new("registering at the coordinator");
    loop {
        let error = match coordinator.register(registration).await {
            Ok(known) => {
                outage.over();
                log::info!("registered as {} ({})", registration.authority, known.id);
                board.write(|status| {
                    status.worker = Some(known.id);
                    status.coordinator_reach = Reach::ok();
                });
                return known.id;
            }
            Err(error) => error,
        };
        board.write(|status| status.coordinator_reach = Reach::failed(&error));
        let refused = error.status().filter(|status| status.is_client_error());
        match refused.map(|status| status.as_u16()) {
            Some(401 | 403) => log::error!(
                "the coordinator does not accept this worker's credential; \
                 secrets.api_secret must be the same in both files: {error}"
            ),
            Some(_) => log::error!("the coordinator refuses this worker: {error}"),
            None => outage.failed(&error),
        }
        let wait = if refused.is_some() {
            REFUSED
        } else {
            backoff.wait()
        };
        tokio::time::sleep(wait).await;
    }
}
