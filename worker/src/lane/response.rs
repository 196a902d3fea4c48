//! The app's answer: its head, and how its body ends (RFC 9112 §6.3).

use std::mem::MaybeUninit;

use super::chunks::Chunks;
use super::head::{self, Field, Headers, MAX_FIELDS, Span};
use super::request::digits;
use crate::stage::HeaderLookup;

/// Longest head of an answer.
pub(super) const MAX_HEAD: usize = 256 * 1_024;

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) reason: Span,
    /// Bytes of the head.
    pub(super) length: usize,
    /// Where its empty line begins, if all its lines are neat.
    pub(super) neat_until: Option<usize>,
    /// How the body ends.
    pub(super) framing: Framing,
    /// The app keeps the connection for another request.
    pub(super) keeps: bool,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After this many bytes.
    Length(u64),
    /// By its own framing.
    Chunked(Chunks),
    /// With the connection.
    UntilClose,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadResponse;

/// Looks at what has been read; `None` while the head is not whole. `fields` gets the headers.
pub(super) fn look(
    bytes: &[u8],
    to_head: bool,
    fields: &mut Vec<Field>,
) -> Result<Option<Response>, BadResponse> {
    let mut space = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    // What apps are forgiven is what the other engine forgives.
    let mut parser = httparse::ParserConfig::default();
    parser
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true);
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, bytes, &mut space) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        _ => return Err(BadResponse),
    };
    let status = parsed.code.ok_or(BadResponse)?;
    let reason = Span::of(bytes, parsed.reason.unwrap_or_default().as_bytes());
    let is_http11 = parsed.version == Some(1);
    head::note(bytes, parsed.headers, fields);
    let lines = bytes[..length]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count();
    let neat_until = fields.first().and_then(|first| {
        // A folded value has a line of its own: there is one for each field and two besides.
        let neat = lines == fields.len() + 2
            && head::lines_are_neat(bytes, fields, first.name.start(), length);
        neat.then(|| length - 2)
    });
    let headers = Headers {
        bytes,
        fields,
        neat_until,
    };
    let framing = framing(&headers, status, to_head)?;
    Ok(Some(Response {
        status,
        reason,
        length,
        neat_until,
        framing,
        keeps: framing != Framing::UntilClose && keeps(&headers, is_http11),
    }))
}

fn framing(headers: &Headers<'_>, status: u16, to_head: bool) -> Result<Framing, BadResponse> {
    let (mut lengths, mut length) = (0, None);
    let (mut codings, mut coding) = (0, &b""[..]);
    for field in headers.fields {
        if field.is(headers.bytes, "content-length") {
            lengths += 1;
            length = digits(field.value.bytes(headers.bytes));
        } else if field.is(headers.bytes, "transfer-encoding") {
            codings += 1;
            coding = field.value.bytes(headers.bytes);
        }
    }
    // One framing, or a second reader could see another body.
    if lengths > 1 || codings > 1 || (lengths > 0 && (codings > 0 || length.is_none())) {
        return Err(BadResponse);
    }
    if to_head || matches!(status, 100..=199 | 204 | 304) {
        return Ok(Framing::Length(0));
    }
    match length {
        Some(length) => Ok(Framing::Length(length)),
        None if codings == 0 => Ok(Framing::UntilClose),
        // Nobody has said that they read another coding (RFC 9112 §7.4).
        None if coding.trim_ascii().eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing::Chunked(Chunks::new()))
        }
        None => Err(BadResponse),
    }
}

/// Whether the app keeps the connection (RFC 9112 §9.3).
fn keeps(headers: &Headers<'_>, is_http11: bool) -> bool {
    let (mut close, mut keep) = (false, false);
    headers.each("connection", &mut |value| {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            close |= token.eq_ignore_ascii_case(b"close");
            keep |= token.eq_ignore_ascii_case(b"keep-alive");
        }
    });
    let coded = headers.get("transfer-encoding").is_some();
    !close && (is_http11 || (keep && !coded))
}
