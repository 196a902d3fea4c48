//! gRPC's view of refusals: a status in the head of an answer that has no body ("Trailers-Only"
//! of gRPC over HTTP/2; gRPC-Web's clients read it the same way).

use std::fmt::Write as _;

use super::Answer;
use crate::context::Context;
use crate::error::{Problem, Refusal};
use crate::stage::Head;

/// What a gRPC client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grpc {
    /// gRPC over HTTP/2.
    Native,
    /// gRPC-Web: trailers come as a last piece of the body.
    Web,
    /// gRPC-Web whose body is base64.
    WebText,
}

const NATIVE: &[u8] = b"application/grpc";

impl Grpc {
    /// What the request is, by its `Content-Type`; `None` if it is not gRPC.
    pub fn of(head: &Head<'_>) -> Option<Self> {
        if head.method != "POST" {
            return None;
        }
        let content_type = head.headers.get("content-type")?;
        let (start, rest) = content_type.split_at_checked(NATIVE.len())?;
        if !start.eq_ignore_ascii_case(NATIVE) {
            return None;
        }
        let is = |suffix: &[u8]| {
            let found = rest.get(..suffix.len());
            let ends = matches!(rest.get(suffix.len()), None | Some(b'+' | b';' | b' '));
            ends && found.is_some_and(|found| found.eq_ignore_ascii_case(suffix))
        };
        match () {
            () if is(b"-web-text") => Some(Self::WebText),
            () if is(b"-web") => Some(Self::Web),
            () if is(b"") => Some(Self::Native),
            () => None,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Native => "application/grpc",
            Self::Web => "application/grpc-web+proto",
            Self::WebText => "application/grpc-web-text+proto",
        }
    }
}

/// The refusal as a gRPC client understands it.
pub(super) fn refusal(grpc: Grpc, refusal: &Refusal, ctx: &mut Context) -> Answer {
    let status = status(refusal, Problem::from(refusal).status);
    Answer::new(200, ctx)
        .with("content-type", grpc.content_type())
        .with("grpc-status", status.to_string())
        .with("grpc-message", escaped(&refusal.to_string()))
        .with("access-control-allow-origin", "*")
        .with("access-control-expose-headers", "grpc-status, grpc-message")
        .body(String::new())
}

/// gRPC's "HTTP to gRPC Status Code Mapping", but for what has a fitter word.
fn status(refusal: &Refusal, http: u16) -> u8 {
    const NOT_FOUND: u8 = 5;
    const PERMISSION_DENIED: u8 = 7;
    const UNIMPLEMENTED: u8 = 12;
    const INTERNAL: u8 = 13;
    const UNAVAILABLE: u8 = 14;
    const UNAUTHENTICATED: u8 = 16;
    match (refusal, http) {
        (Refusal::UnknownPort(_) | Refusal::UnknownSubdomain(_), _) => NOT_FOUND,
        (Refusal::CircuitClosed, _) | (_, 429 | 502 | 503 | 504) => UNAVAILABLE,
        (_, 401) => UNAUTHENTICATED,
        (_, 403) => PERMISSION_DENIED,
        (_, 404) => UNIMPLEMENTED,
        _ => INTERNAL,
    }
}

/// Text as `grpc-message` carries it: what is not printable ASCII is percent-encoded.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}
