//! `allowed_client_ips`: the networks a circuit may be used from (contract/data-plane.md §3).
//!
//! Unlike the incumbent's, a list without one valid entry admits nobody, and an IPv4-mapped IPv6
//! address is compared as the IPv4 address it is (contract/pitfalls.md A12).

use std::net::IpAddr;

use ipnet::IpNet;

/// A parsed list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientIps {
    restricted: bool,
    networks: Vec<IpNet>,
    refused: Vec<String>,
}

impl ClientIps {
    /// Parses comma-separated addresses and networks. Absent or blank means no limit.
    pub fn parse(list: Option<&str>) -> Self {
        let text = list.unwrap_or_default();
        let mut parsed = Self {
            restricted: !text.trim().is_empty(),
            ..Self::default()
        };
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            match parse_network(entry) {
                Some(network) => parsed.networks.push(network),
                None => parsed.refused.push(entry.to_owned()),
            }
        }
        parsed
    }

    /// Whether a client at `address` may use the circuit.
    pub fn admits(&self, address: IpAddr) -> bool {
        if !self.restricted {
            return true;
        }
        let address = address.to_canonical();
        self.networks.iter().any(|net| net.contains(&address))
    }

    /// A list was given.
    pub fn is_restricted(&self) -> bool {
        self.restricted
    }

    /// The networks, host bits cleared.
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// Entries that are neither an address nor a network.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }
}

/// An address or a network (host bits allowed) as a network.
pub fn parse_network(entry: &str) -> Option<IpNet> {
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some(IpNet::from(address.to_canonical()));
    }
    entry.parse::<IpNet>().ok().map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(list: Option<&str>, client: &str) -> bool {
        ClientIps::parse(list).admits(client.parse().unwrap())
    }

    /// Cases 1–17 of contract/tests-inventory.md `test_client_ip.py`; case 14 is answered by
    /// failing closed.
    #[test]
    fn upstream_cases() {
        for blank in [None, Some(""), Some("   ")] {
            assert!(admits(blank, "203.0.113.5"));
            assert!(!ClientIps::parse(blank).is_restricted());
        }
        assert!(admits(Some("203.0.113.5"), "203.0.113.5"));
        assert!(!admits(Some("203.0.113.5"), "203.0.113.6"));
        assert!(admits(Some("10.0.0.0/8"), "10.1.2.3"));
        assert!(!admits(Some("10.0.0.0/8"), "11.0.0.1"));
        assert!(admits(Some("10.0.0.0/8, 192.168.0.0/16"), "192.168.1.1"));
        assert!(!admits(Some("10.0.0.0/8, 192.168.0.0/16"), "172.16.0.1"));
        assert!(admits(Some("fd00::/8"), "fd00::1"));
        assert!(!admits(Some("fd00::/8"), "2001:db8::1"));
        assert!(admits(Some("garbage, 10.0.0.0/8"), "10.0.0.1"));
        assert!(!admits(Some("garbage, 10.0.0.0/8"), "11.0.0.1"));
        assert!(!admits(Some("garbage, also-bad"), "10.0.0.1"));
        let ranges = ClientIps::parse(Some(" 10.0.0.0/8 , 203.0.113.5 "));
        let texts: Vec<_> = ranges.networks().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.0/8", "203.0.113.5/32"]);
    }

    #[test]
    fn mapped_addresses_and_host_bits() {
        assert!(admits(Some("10.0.0.0/8"), "::ffff:10.0.0.1"));
        assert!(admits(Some("10.1.2.3/8"), "10.200.0.1"));
    }
}
