//! What the app is told about the way a request took (contract/data-plane.md §6, with
//! pitfalls.md A9 and A10 corrected): the chain in `X-Forwarded-For` and `Forwarded` (RFC 7239)
//! is continued where a trusted proxy vouches for it and begun anew otherwise.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::{Client, Head, HeaderSink, locate};
use crate::table::LiveCircuit;

pub(super) fn write(
    head: &Head<'_>,
    client: &Client,
    circuit: Option<&LiveCircuit>,
    uses_tls: bool,
    sink: &mut dyn HeaderSink,
) {
    let proto = proto(head, client, uses_tls);
    let host = locate::host(head, client).unwrap_or_default();
    let peer = head.peer.ip().to_canonical();

    let mut chain = String::new();
    let mut forwarded = String::with_capacity(96);
    if client.by_trusted_proxy {
        gather(head, "x-forwarded-for", &mut chain);
        gather(head, "forwarded", &mut forwarded);
        separate(&mut chain);
        separate(&mut forwarded);
    }
    let before = chain.len();
    push_ip(&mut chain, peer);
    // An address as a `for=` node: IPv6 in brackets and quotes (RFC 7239 §6).
    let (open, close) = if peer.is_ipv6() {
        ("\"[", "]\"")
    } else {
        ("", "")
    };
    for part in ["for=", open, &chain[before..], close, ";host=\""] {
        forwarded.push_str(part);
    }
    forwarded.extend(host.split(['"', '\\']));
    forwarded.push_str("\";proto=");
    forwarded.push_str(proto);

    sink.set("x-forwarded-for", &chain);
    sink.set("forwarded", &forwarded);
    sink.set("x-forwarded-proto", proto);
    sink.set("x-forwarded-host", host);
    sink.set("x-forwarded-port", &port(host, proto, head.local));
    if circuit.and_then(|live| live.circuit.app.as_deref()) == Some("rstudio") {
        let path = decoded(head.path());
        sink.set("x-rstudio-proto", proto);
        sink.set("x-rstudio-request", &format!("{proto}://{host}{path}"));
    }
}

pub(super) fn proto(head: &Head<'_>, client: &Client, uses_tls: bool) -> &'static str {
    let said = client
        .by_trusted_proxy
        .then(|| head.headers.get("x-forwarded-proto"))
        .flatten();
    match said {
        Some(value) if value.eq_ignore_ascii_case(b"https") => "https",
        Some(value) if value.eq_ignore_ascii_case(b"http") => "http",
        _ if head.tls || uses_tls => "https",
        _ => "http",
    }
}

/// The port clients see: the host's own, else the scheme's.
fn port<'a>(host: &'a str, proto: &str, local: SocketAddr) -> Cow<'a, str> {
    let after_name = host.rfind(']').map_or(host, |end| &host[end..]);
    let given = after_name.rsplit_once(':').map(|(_, port)| port);
    match given.map(|port| (port, port.parse::<u16>())) {
        Some((text, Ok(_))) if !text.starts_with(['0', '+']) => text.into(),
        Some((_, Ok(port))) => port.to_string().into(),
        _ if host.is_empty() => local.port().to_string().into(),
        _ if proto == "https" => "443".into(),
        _ => "80".into(),
    }
}

/// Writes an address without the formatter, which costs more than all else here.
fn push_ip(out: &mut String, ip: IpAddr) {
    let IpAddr::V4(ip) = ip else {
        // Writing to a String cannot fail.
        let _ = write!(out, "{ip}");
        return;
    };
    for (place, octet) in ip.octets().into_iter().enumerate() {
        if place > 0 {
            out.push('.');
        }
        if octet >= 100 {
            out.push(char::from(b'0' + octet / 100));
        }
        if octet >= 10 {
            out.push(char::from(b'0' + octet / 10 % 10));
        }
        out.push(char::from(b'0' + octet % 10));
    }
}

fn gather(head: &Head<'_>, name: &str, out: &mut String) {
    head.headers.each(name, &mut |value| {
        if let Ok(text) = std::str::from_utf8(value) {
            separate(out);
            out.push_str(text.trim());
        }
    });
}

fn separate(list: &mut String) {
    if !list.is_empty() {
        list.push_str(", ");
    }
}

/// A path with its escapes undone, as RStudio wants it; left as it is where that would give
/// something that cannot stand in a header.
fn decoded(path: &str) -> Cow<'_, str> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| std::str::from_utf8(tail.get(..2)?).ok())
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.into(),
        _ => path.into(),
    }
}
