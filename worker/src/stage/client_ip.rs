//! Who the client is, where proxies we trust stand in front (contract/data-plane.md §4; any
//! number of hops instead of exactly one, pitfalls.md A11).

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::Head;

/// The client of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address; the port is 0 where only a proxy knows it.
    pub address: SocketAddr,
    /// The TCP peer is a proxy we trust, so what it says of host and scheme is believed.
    pub by_trusted_proxy: bool,
}

/// Walks `X-Forwarded-For` from the right, past every address we trust. A peer we do not trust is
/// the client itself, whatever it says.
pub(super) fn client(head: &Head<'_>, trusted: &[IpNet]) -> Client {
    let is_trusted = |ip: IpAddr| {
        let ip = ip.to_canonical();
        trusted.iter().any(|net| net.contains(&ip))
    };
    if trusted.is_empty() || !is_trusted(head.peer.ip()) {
        return Client {
            address: head.peer,
            by_trusted_proxy: false,
        };
    }
    let mut chain = Vec::new();
    head.headers.each("x-forwarded-for", &mut |value| {
        chain.extend(value.split(|byte| *byte == b','));
    });
    let mut address = head.peer;
    for entry in chain.into_iter().rev() {
        // What a trusted hop wrote illegibly ends the walk: further left nobody is vouched for.
        let Some(next) = parse_hop(entry) else { break };
        address = next;
        if !is_trusted(next.ip()) {
            break;
        }
    }
    Client {
        address,
        by_trusted_proxy: true,
    }
}

/// `1.2.3.4`, `1.2.3.4:5`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:5`.
fn parse_hop(entry: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse::<IpAddr>()
        .map(|ip| SocketAddr::new(ip, 0))
        .ok()
        .or_else(|| text.parse().ok())
}
