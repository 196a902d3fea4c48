//! Heads that could mean one thing to us and another to the app are refused (RFC 9112 §3, §6;
//! pingora-notes.md, "Requests it lets through").

use super::Head;
use crate::error::Refusal;

pub(super) fn inspect(head: &Head<'_>) -> Result<(), Refusal> {
    let lengths = head.headers.count("content-length");
    if lengths > 1 {
        return Err(Refusal::BadRequest("more than one Content-Length"));
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
    if head.target.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(Refusal::BadRequest("white space in the target"));
    }
    Ok(())
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
