//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): a balancer in front says
//! who the client is, in a header before everything else.
//!
//! A peer that is trusted has to send one, any other cannot: whether one is there is never
//! guessed (§2 of the specification).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What a header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;
/// Longest header of version 1, its line end included (§2.1).
const V1_MOST: usize = 107;
/// Longest header of version 2 taken: addresses, and what balancers add to them.
const V2_MOST: usize = 4_096;
/// Between looks at a header that comes byte by byte.
const PAUSE: Duration = Duration::from_millis(5);

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Why a connection is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ProxyProtocolError {
    /// It does not begin with a header.
    #[error("a trusted peer sent no PROXY header: {0}")]
    Malformed(&'static str),
    /// The header did not come in time.
    #[error("a trusted peer did not send its PROXY header in time")]
    TooSlow,
    /// The connection broke.
    #[error("the connection broke within its PROXY header: {0}")]
    Io(#[from] io::Error),
}

/// What the bytes so far come to.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// More are needed.
    Incomplete,
    /// A header of this length; `None`: the connection is the balancer's own, or its client's
    /// address is not one of IP.
    Header(usize, Option<SocketAddr>),
}

/// Takes the header off a fresh connection if its peer is of these networks; answers with the
/// client's address, if one is said.
///
/// # Errors
/// If a peer of these networks sends no header within `patience`, or none that can be understood.
pub async fn take_if_trusted(
    stream: &mut TcpStream,
    trusted: &[IpNet],
    patience: Duration,
) -> Result<Option<SocketAddr>, ProxyProtocolError> {
    if trusted.is_empty() {
        return Ok(None);
    }
    let peer = stream.peer_addr()?.ip().to_canonical();
    if trusted.iter().any(|network| network.contains(&peer)) {
        take(stream, patience).await
    } else {
        Ok(None)
    }
}

/// Takes the header off a fresh connection; answers with the client's address, if it says one.
///
/// # Errors
/// If there is no header within `patience`, or none that can be understood.
async fn take(
    stream: &mut TcpStream,
    patience: Duration,
) -> Result<Option<SocketAddr>, ProxyProtocolError> {
    let header = async {
        let mut first = [0; V1_MOST];
        loop {
            let count = stream.peek(&mut first).await?;
            if count == 0 {
                return Err(ProxyProtocolError::Malformed("it ended"));
            }
            let first = first.get(..count).unwrap_or_default();
            if let Some(length) = v2_length(first)? {
                let mut header = vec![0; length];
                stream.read_exact(&mut header).await?;
                return match parse_v2(&header)? {
                    Parsed::Header(_, source) => Ok(source),
                    Parsed::Incomplete => Err(ProxyProtocolError::Malformed("it is cut short")),
                };
            }
            match parse_v1(first)? {
                Parsed::Header(length, source) => {
                    let mut header = vec![0; length];
                    stream.read_exact(&mut header).await?;
                    return Ok(source);
                }
                Parsed::Incomplete => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    timeout(patience, header)
        .await
        .unwrap_or(Err(ProxyProtocolError::TooSlow))
}

/// The header that announces a client to an app.
pub fn announce(version: Version, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (source, destination) = same_family(source, destination);
    match version {
        Version::V1 => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            format!(
                "PROXY {family} {} {} {} {}\r\n",
                source.ip(),
                destination.ip(),
                source.port(),
                destination.port()
            )
            .into_bytes()
        }
        Version::V2 => {
            let mut header = SIGNATURE.to_vec();
            let (family, length) = if source.is_ipv4() {
                (0x11, 12)
            } else {
                (0x21, 36)
            };
            header.extend_from_slice(&[0x21, family, 0, length]);
            for address in [source.ip(), destination.ip()] {
                match address {
                    IpAddr::V4(address) => header.extend_from_slice(&address.octets()),
                    IpAddr::V6(address) => header.extend_from_slice(&address.octets()),
                }
            }
            header.extend_from_slice(&source.port().to_be_bytes());
            header.extend_from_slice(&destination.port().to_be_bytes());
            header
        }
    }
}

/// Both as IPv4 if they are, mapped addresses included; else both as IPv6.
fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let as_v6 = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        (source, destination)
    } else {
        (as_v6(source), as_v6(destination))
    }
}

/// The length of a header of version 2, once its fixed part is there; `None` if the bytes are not
/// one, or not enough of one.
fn v2_length(first: &[u8]) -> Result<Option<usize>, ProxyProtocolError> {
    if !first.starts_with(SIGNATURE) || first.len() < V2_FIXED {
        return Ok(None);
    }
    let length = usize::from(u16::from_be_bytes([first[14], first[15]])) + V2_FIXED;
    if length > V2_MOST {
        return Err(ProxyProtocolError::Malformed("it is too long"));
    }
    Ok(Some(length))
}

fn parse_v2(header: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    let (Some(&command), Some(&family)) = (header.get(12), header.get(13)) else {
        return Ok(Parsed::Incomplete);
    };
    let body = header.get(V2_FIXED..).unwrap_or_default();
    let length = header.len();
    match command {
        // LOCAL: a check by the balancer itself.
        0x20 => return Ok(Parsed::Header(length, None)),
        0x21 => {}
        _ => return Err(ProxyProtocolError::Malformed("unknown version or command")),
    }
    let short = ProxyProtocolError::Malformed("its addresses are cut short");
    let source: Option<SocketAddr> = match family {
        0x11 => {
            let body: &[u8; 12] = body.first_chunk().ok_or(short)?;
            let ip = Ipv4Addr::new(body[0], body[1], body[2], body[3]);
            Some((ip, u16::from_be_bytes([body[8], body[9]])).into())
        }
        0x21 => {
            let body: &[u8; 36] = body.first_chunk().ok_or(short)?;
            let (ip, _) = body
                .split_first_chunk::<16>()
                .ok_or(ProxyProtocolError::Malformed("its addresses are cut short"))?;
            let ip = Ipv6Addr::from(*ip);
            Some((ip, u16::from_be_bytes([body[32], body[33]])).into())
        }
        // UNSPEC, datagrams, and sockets of Unix: nothing that we could use.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Err(ProxyProtocolError::Malformed("unknown family")),
    };
    Ok(Parsed::Header(length, source))
}

fn parse_v1(first: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    const BEGIN: &[u8] = b"PROXY ";
    let begun = first.len().min(BEGIN.len());
    let of_v2 = first.len().min(SIGNATURE.len());
    if first[..begun] != BEGIN[..begun] {
        if first[..of_v2] == SIGNATURE[..of_v2] {
            return Ok(Parsed::Incomplete);
        }
        return Err(ProxyProtocolError::Malformed(
            "it begins with something else",
        ));
    }
    let Some(end) = first.windows(2).position(|pair| pair == b"\r\n") else {
        if first.len() >= V1_MOST {
            return Err(ProxyProtocolError::Malformed("its line does not end"));
        }
        return Ok(Parsed::Incomplete);
    };
    let malformed = || ProxyProtocolError::Malformed("its line is not as it should be");
    let line = first.get(BEGIN.len()..end).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| malformed())?;
    let words: Vec<&str> = line.split(' ').collect();
    let source = match words[..] {
        ["UNKNOWN", ..] => None,
        [family @ ("TCP4" | "TCP6"), source, destination, from, to] => {
            let ip: IpAddr = source.parse().map_err(|_| malformed())?;
            let other: IpAddr = destination.parse().map_err(|_| malformed())?;
            let v4 = family == "TCP4";
            if ip.is_ipv4() != v4 || other.is_ipv4() != v4 {
                return Err(malformed());
            }
            let from = port(from).ok_or_else(malformed)?;
            port(to).ok_or_else(malformed)?;
            Some(SocketAddr::new(ip, from))
        }
        _ => return Err(malformed()),
    };
    Ok(Parsed::Header(end + 2, source))
}

/// A port as the specification wants it: digits only, no zero in front.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let shortest = text.len() == 1 || !text.starts_with('0');
    (plain && shortest).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(bytes: &[u8]) -> Result<Option<SocketAddr>, ProxyProtocolError> {
        match parse_v2(bytes)? {
            Parsed::Header(_, source) => Ok(source),
            Parsed::Incomplete => Err(ProxyProtocolError::Malformed("incomplete")),
        }
    }

    #[test]
    fn what_is_announced_is_understood() {
        for (source, destination, seen) in [
            ("192.0.2.1:4711", "198.51.100.1:443", "192.0.2.1:4711"),
            (
                "[2001:db8::1]:4711",
                "[2001:db8::2]:443",
                "[2001:db8::1]:4711",
            ),
            ("[::ffff:192.0.2.1]:1", "198.51.100.1:443", "192.0.2.1:1"),
            ("192.0.2.1:1", "[2001:db8::2]:443", "[::ffff:192.0.2.1]:1"),
        ] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let seen: SocketAddr = seen.parse().unwrap();
            let mut line = announce(Version::V1, source, destination);
            let length = line.len();
            line.extend_from_slice(b"GET /");
            let parsed = parse_v1(&line).unwrap();
            assert_eq!(parsed, Parsed::Header(length, Some(seen)));

            let header = announce(Version::V2, source, destination);
            assert_eq!(v2_length(&header).unwrap(), Some(header.len()));
            assert_eq!(v2(&header).unwrap(), Some(seen));
        }
    }

    #[test]
    fn every_beginning_of_a_header_waits_for_more() {
        let (source, destination) = (
            "192.0.2.1:1".parse().unwrap(),
            "192.0.2.2:2".parse().unwrap(),
        );
        let line = announce(Version::V1, source, destination);
        for end in 1..line.len() {
            assert_eq!(parse_v1(&line[..end]).unwrap(), Parsed::Incomplete, "{end}");
        }
        let header = announce(Version::V2, source, destination);
        for end in 1..V2_FIXED {
            assert_eq!(v2_length(&header[..end]).unwrap(), None, "{end}");
            assert_eq!(
                parse_v1(&header[..end]).unwrap(),
                Parsed::Incomplete,
                "{end}"
            );
        }
    }

    #[test]
    fn lines_that_are_not_as_they_should_be() {
        let long = format!("PROXY UNKNOWN {}", "x".repeat(V1_MOST));
        for line in [
            "GET / HTTP/1.1\r\n",
            "PROXY\r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
            "PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
            "proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4\t1.2.3.4 1 2\r\n",
            &long,
        ] {
            assert!(parse_v1(line.as_bytes()).is_err(), "{line}");
        }
        let unknown = parse_v1(b"PROXY UNKNOWN ffff::1 whatever\r\n").unwrap();
        assert_eq!(unknown, Parsed::Header(32, None));
    }

    #[test]
    fn binary_headers_that_are_not_as_they_should_be() {
        let header = |command: u8, family: u8, body: &[u8]| {
            let length = u8::try_from(body.len()).unwrap();
            [&SIGNATURE[..], &[command, family, 0, length], body].concat()
        };
        for (command, family, length) in [
            (0x11, 0x11, 12),
            (0x22, 0x11, 12),
            (0x2f, 0x11, 12),
            (0x21, 0x11, 11),
            (0x21, 0x21, 35),
            (0x21, 0x41, 12),
            (0x21, 0xff, 12),
        ] {
            let header = header(command, family, &vec![1; length]);
            assert!(v2(&header).is_err(), "{command:x} {family:x} {length}");
        }
        // A check by the balancer itself, and families that say nothing of use.
        for (command, family, length) in [
            (0x20, 0, 0),
            (0x20, 0x11, 12),
            (0x21, 0, 0),
            (0x21, 0x31, 216),
        ] {
            let header = header(command, family, &vec![1; length]);
            assert_eq!(v2(&header).unwrap(), None, "{command:x} {family:x}");
        }
        let mut long = header(0x21, 0x11, &[1; 12]);
        long[14] = 0x10;
        assert!(v2_length(&long).is_err());
    }
}
