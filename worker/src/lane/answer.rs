//! Heads that go to the client: an app's answer, dressed, and answers of our own.

use pingora_core::protocols::http::date::get_cached_date;

use super::head::Headers;
use super::response::{Framing, Response};
use super::rewrite::{Added, Rewrite};
use crate::conduct::{Answer, Conduct};
use crate::context::Context;
use crate::stage::HeaderLookup as _;

/// Writes the head of an app's answer.
pub(super) fn dressed(
    conduct: &Conduct,
    ctx: &mut Context,
    (answer, headers): (&Response, Headers<'_>),
    keep: bool,
    (added, out): (&mut Added, &mut Vec<u8>),
) {
    let mut rewrite = Rewrite::new(headers, added);
    rewrite.remove_hop_by_hop();
    conduct.dress(ctx, &mut rewrite);
    out.clear();
    status_line(answer.status, answer.reason.bytes(headers.bytes), out);
    let dated = rewrite.get("date").is_some();
    rewrite.render(out);
    if answer.framing == Framing::UntilClose {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if !dated {
        date(out);
    }
    connection(keep, out);
}

/// Writes an interim answer's head as it came.
pub(super) fn interim(
    answer: &Response,
    headers: Headers<'_>,
    added: &mut Added,
    out: &mut Vec<u8>,
) {
    out.clear();
    status_line(answer.status, answer.reason.bytes(headers.bytes), out);
    Rewrite::new(headers, added).render(out);
    out.extend_from_slice(b"\r\n");
}

/// Writes an answer of our own, with its body unless it answers a `HEAD`.
pub(super) fn own(answer: &Answer, to_head: bool, keep: bool, out: &mut Vec<u8>) {
    out.clear();
    let status = http::StatusCode::from_u16(answer.status).unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or_default();
    status_line(answer.status, reason.as_bytes(), out);
    for (name, value) in &answer.headers {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        // What a header cannot hold must not become a second one.
        out.extend(value.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')));
        out.extend_from_slice(b"\r\n");
    }
    date(out);
    connection(keep, out);
    if !to_head {
        out.extend_from_slice(&answer.body);
    }
}

fn status_line(status: u16, reason: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    for place in [100, 10, 1] {
        out.push(b'0' + (status / place % 10) as u8);
    }
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

fn date(out: &mut Vec<u8>) {
    out.extend_from_slice(b"Date: ");
    out.extend_from_slice(get_cached_date().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The last header, and the end of the head.
fn connection(keep: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if keep {
        b"Connection: keep-alive\r\n\r\n"
    } else {
        b"Connection: close\r\n\r\n"
    });
}
