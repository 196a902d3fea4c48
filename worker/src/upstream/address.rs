//! The socket address behind a kernel's host: fixed, or a name looked up and remembered shortly.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use patchbay_common::tunnel::TunnelId;
use std::sync::Arc;

/// How long an answer of the resolver is believed.
const REMEMBERED: Duration = Duration::from_secs(10);

/// What a host begins with that is lent by an agent.
pub const TUNNEL: &str = "tunnel://";

/// Where a host is found.
#[derive(Debug)]
pub(super) enum Address {
    /// The host is an address.
    Fixed(SocketAddr),
    /// The host is a tunnel.
    Lent(TunnelId),
    /// The host is a name.
    Named {
        host: String,
        port: u16,
        last: ArcSwapOption<(SocketAddr, Instant)>,
    },
}

impl Address {
    pub(super) fn new(host: &str, port: u16) -> Self {
        if let Some(id) = host.strip_prefix(TUNNEL).and_then(|id| id.parse().ok()) {
            return Self::Lent(id);
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(ip) => Self::Fixed(SocketAddr::new(ip, port)),
            Err(_) => Self::Named {
                host: host.to_owned(),
                port,
                last: ArcSwapOption::empty(),
            },
        }
    }

    /// The address to dial. IPv4 is preferred where a name has both, since kernels listen there.
    pub(super) async fn resolve(&self) -> io::Result<SocketAddr> {
        let (host, port, last) = match self {
            Self::Fixed(address) => return Ok(*address),
            Self::Lent(_) => return Err(io::ErrorKind::Unsupported.into()),
            Self::Named { host, port, last } => (host.as_str(), *port, last),
        };
        if let Some(known) = last.load().as_deref()
            && known.1.elapsed() < REMEMBERED
        {
            return Ok(known.0);
        }
        let mut found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        let address = found.first().copied().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"))
        })?;
        last.store(Some(Arc::new((address, Instant::now()))));
        Ok(address)
    }

    /// The tunnel, if it is one.
    pub(super) fn tunnel(&self) -> Option<&TunnelId> {
        match self {
            Self::Lent(id) => Some(id),
            _ => None,
        }
    }

    /// Forgets what was looked up: the next attempt asks again.
    pub(super) fn forget(&self) {
        if let Self::Named { last, .. } = self {
            last.store(None);
        }
    }
}
