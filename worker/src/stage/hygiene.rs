//! Heads that could mean one thing to us and another to the app are refused (RFC 9112 §3, §6;
//! pingora-notes.md, "Requests it lets through"). Bare line feeds are refused by `frontend`,
//! which sees the bytes.

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
