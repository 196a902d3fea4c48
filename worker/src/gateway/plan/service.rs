//! A service: its instances and the choice among them.

use std::sync::Arc;

use patchbay_common::circuit::Protocol;
use patchbay_common::config::HostPort;
use patchbay_common::id::SessionId;
use patchbay_common::route::Route;
use tokio_util::sync::CancellationToken;

use super::Flaw;
use crate::gateway::config::sections;
use crate::upstream::UpstreamSet;

/// One service in use.
#[derive(Debug)]
pub struct LiveService {
    /// Its name.
    pub name: String,
    /// Its instances.
    pub upstreams: UpstreamSet,
    /// Cancelled when what it carries has to end.
    pub closed: CancellationToken,
    settings: sections::Service,
}

/// The service; `known` is the one of this name before.
pub(super) fn build(
    name: &str,
    section: &sections::Service,
    known: Option<&Arc<LiveService>>,
    flaws: &mut Vec<Flaw>,
) -> Option<Arc<LiveService>> {
    if let Some(same) = known.filter(|known| known.settings == *section) {
        return Some(Arc::clone(same));
    }
    let mut routes = Vec::new();
    for instance in &section.instances {
        match address(&instance.address) {
            Some(address) if instance.weight.is_finite() && instance.weight >= 0.0 => {
                routes.push(route(address, instance.weight));
            }
            Some(_) => flaws.push((
                format!("services.{name}.instances"),
                format!("`{}`: the weight must not be negative", instance.address),
            )),
            None => flaws.push((
                format!("services.{name}.instances"),
                format!("`{}` is not an address: write host:port", instance.address),
            )),
        }
    }
    Some(Arc::new(LiveService {
        name: name.to_owned(),
        upstreams: UpstreamSet::new(&routes, known.map(|known| &known.upstreams)),
        closed: known.map_or_else(CancellationToken::new, |known| known.closed.clone()),
        settings: section.clone(),
    }))
}

fn address(text: &str) -> Option<HostPort> {
    let bare = text.strip_prefix("http://").unwrap_or(text);
    HostPort::parse(bare.trim_end_matches('/'))
        .filter(|address| address.port != 0 && !address.host.contains(['/', '@', '?', '#', ' ']))
}

fn route(address: HostPort, weight: f64) -> Route {
    Route {
        route_id: None,
        session_id: SessionId::from(uuid::Uuid::nil()),
        session_name: None,
        kernel_host: Some(address.host),
        kernel_port: address.port,
        protocol: Protocol::Http,
        traffic_ratio: weight,
    }
}
