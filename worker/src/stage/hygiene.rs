//! Heads that could mean one thing to us and another to the app are refused (RFC 9112 §3, §6;
//! pingora-notes.md, "Requests it lets through").

use super::Head;
use crate::error::Refusal;

pub(super) fn inspect(head: &Head<'_>) -> Result<(), Refusal> {
    let lengths = head.headers.count("content-length");
    if lengths > 1 {
        return Err(Refusal::BadRequest("more than one Content-Length"));
    }
    if let Some(length) = head.headers.get("content-length")
        && (length.is_empty() || !length.iter().all(u8::is_ascii_digit))
    {
        return Err(Refusal::BadRequest("a Content-Length that is no number"));
    }
    let mut plain = true;
    head.headers.each("transfer-encoding", &mut |coding| {
        plain &= coding.eq_ignore_ascii_case(b"chunked");
    });
    if !plain {
        return Err(Refusal::BadRequest(
            "a Transfer-Encoding that is not chunked",
        ));
    }
    if lengths > 0 && head.headers.get("transfer-encoding").is_some() {
        return Err(Refusal::BadRequest(
            "both Content-Length and Transfer-Encoding",
        ));
    }
    match head.headers.count("host") {
        0 if head.is_http11 && head.authority.is_none() => {
            return Err(Refusal::BadRequest("no Host"));
        }
        0 | 1 => {}
        _ => return Err(Refusal::BadRequest("more than one Host")),
    }
    if head.headers.get("host").is_some_and(|host| !is_host(host)) {
        return Err(Refusal::BadRequest("a Host that is none"));
    }
    let whole = head.target.starts_with('/') || head.authority.is_some();
    if !whole && (head.method, head.target) != ("OPTIONS", "*") {
        return Err(Refusal::BadRequest("a target that is no path"));
    }
    if head.target.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(Refusal::BadRequest("white space in the target"));
    }
    Ok(())
}

/// Whether a `Host` is a name or an address, with or without a port (RFC 9110 §7.2). An empty one
/// is allowed.
pub fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else {
                return false;
            };
            let inside = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            (rest[..end].iter().all(inside), &rest[end + 1..])
        }
        None => {
            let end = host.iter().position(|byte| *byte == b':');
            let end = end.unwrap_or(host.len());
            let inside =
                |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte);
            (host[..end].iter().all(inside), &host[end..])
        }
    };
    let port = match port.split_first() {
        None => true,
        Some((b':', digits)) => digits.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    };
    name && port
}

/// The head's bytes: lines end in CR LF, the request line has exactly three words, and the body
/// is framed once. The engine takes a second framing out of its parsed head, so only the bytes
/// tell that it was there.
pub(super) fn inspect_bytes(raw: &[u8]) -> Result<(), Refusal> {
    let mut previous = 0;
    for &byte in raw {
        if byte == b'\n' && previous != b'\r' {
            return Err(Refusal::BadRequest("a line ends without a carriage return"));
        }
        previous = byte;
    }
    let mut raw = raw;
    // Empty lines before a request are passed over (RFC 9112 §2.2).
    while let Some(rest) = raw.strip_prefix(b"\r\n") {
        raw = rest;
    }
    let mut lines = raw.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    if first.iter().filter(|byte| **byte == b' ').count() != 2 {
        return Err(Refusal::BadRequest("white space in the target"));
    }
    let framings =
        lines.filter(|line| is(line, b"content-length") || is(line, b"transfer-encoding"));
    if framings.count() > 1 {
        return Err(Refusal::BadRequest("the body is framed more than once"));
    }
    Ok(())
}

/// Whether a header line has this name.
fn is(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(name))
        && line.get(name.len()) == Some(&b':')
}
