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

/// The head's bytes: lines end in CR LF, and the request line has exactly three words.
pub(super) fn inspect_bytes(raw: &[u8]) -> Result<(), Refusal> {
    let mut previous = 0;
    for &byte in raw {
        if byte == b'\n' && previous != b'\r' {
            return Err(Refusal::BadRequest("a line ends without a carriage return"));
        }
        previous = byte;
    }
    let line = raw.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if line.iter().filter(|byte| **byte == b' ').count() != 2 {
        return Err(Refusal::BadRequest("white space in the target"));
    }
    Ok(())
}
