//! Which circuit a request asks for: by the port it came to, or the subdomain it names.
//!
//! The domain is compared as a suffix and without regard to case (pitfalls.md A17).

use std::sync::Arc;

use super::{Client, Head};
use crate::config::Frontend;
use crate::error::Refusal;
use crate::table::{LiveCircuit, Table};

/// A slot as a request names it.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// The circuit's port.
    Port(u16),
    /// The circuit's subdomain, lower case.
    Subdomain(String),
}

impl Place {
    pub(super) fn unknown(self) -> Refusal {
        match self {
            Self::Port(port) => Refusal::UnknownPort(port),
            Self::Subdomain(name) => Refusal::UnknownSubdomain(name),
        }
    }
}

pub(super) fn domain(frontend: &Frontend) -> Option<String> {
    match frontend {
        Frontend::Wildcard { domain, .. } => Some(domain.clone()),
        Frontend::Port { .. } => None,
    }
}

/// What is added to a bound port to get the port circuits name (contract/pitfalls.md A25).
pub fn port_offset(frontend: &Frontend) -> i32 {
    match frontend {
        Frontend::Port {
            range,
            advertised_first,
            ..
        } => i32::from(*advertised_first) - i32::from(range.0),
        Frontend::Wildcard { .. } => 0,
    }
}

pub(super) fn place(
    head: &Head<'_>,
    client: &Client,
    domain: Option<&str>,
    port_offset: i32,
) -> Result<Place, Refusal> {
    let Some(domain) = domain else {
        let bound = head.local.port();
        let port = u16::try_from(i32::from(bound) + port_offset).unwrap_or(bound);
        return Ok(Place::Port(port));
    };
    let host = host(head, client).ok_or(Refusal::BadRequest("the request names no host"))?;
    let name = host_name(host).to_ascii_lowercase();
    Ok(Place::Subdomain(
        name.strip_suffix(domain).unwrap_or(&name).to_owned(),
    ))
}

/// The host asked for, as a trusted proxy or else the client says.
pub(super) fn host<'a>(head: &'a Head<'_>, client: &Client) -> Option<&'a str> {
    let forwarded = client
        .by_trusted_proxy
        .then(|| head.headers.get("x-forwarded-host"))
        .flatten()
        .and_then(|value| std::str::from_utf8(value).ok())
        .map(|value| value.split(',').next().unwrap_or(value).trim());
    forwarded.filter(|host| !host.is_empty()).or(head.host())
}

/// A host without its port.
fn host_name(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    host.split_once(':').map_or(host, |(name, _)| name)
}

pub(super) fn find(table: &Table, place: &Place) -> Option<Arc<LiveCircuit>> {
    match place {
        Place::Port(port) => table.at_port(*port),
        Place::Subdomain(name) => table.at_subdomain(name),
    }
}
