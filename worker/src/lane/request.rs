//! Which requests the lane carries: plain ones, of which no reader could think twice. Whatever is
//! unusual, doubtful or wrong is the other engine's to judge.

use std::mem::MaybeUninit;

use super::head::{self, Field, Headers, Span};
use crate::stage::is_host;

/// Longest head the lane reads.
pub(super) const MAX_HEAD: usize = 8 * 1_024;

/// Most headers of a request; others are handed over.
const MAX_FIELDS: usize = 64;

/// The methods the lane knows, in the order they are met.
const METHODS: [&str; 7] = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"];

/// Those whose bodies may come in chunks.
const HAVE_BODIES: [&str; 3] = ["POST", "PUT", "PATCH"];

/// A plain request's head; what it says beside its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: Span,
    pub(super) target: Span,
    /// Bytes of the head.
    pub(super) length: usize,
    /// What follows the head.
    pub(super) body: Body,
    /// The client does not want the connection kept.
    pub(super) close: bool,
}

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// By its length, which may be none.
    Length(u64),
    /// In chunks.
    Chunked,
}

impl Body {
    /// What is known of its length.
    pub(super) fn length(self) -> u64 {
        match self {
            Self::Length(length) => length,
            Self::Chunked => 0,
        }
    }
}

/// Why a request is handed over, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its head is long, or has many headers.
    Long,
    /// The head is not written as the standard has it, or not valid at all.
    Form,
    /// Another version of HTTP.
    Version,
    /// A method the lane does not know.
    Method,
    /// A target in another form, or with unusual characters.
    Target,
    /// No host, more than one, or an unusual one.
    Host,
    /// It asks for another protocol.
    Upgrade,
    /// A body whose end is in doubt, or which its method does not have.
    Body,
    /// It expects an answer before it sends its body.
    Expect,
    /// It says something about the connection that the lane does not deal with.
    Connection,
    /// Its app is reached through a tunnel.
    Tunnel,
    /// Its app is spoken to in another protocol.
    Protocol,
    /// It is an agent's or an operator's call.
    Call,
    /// The lane is switched off for its circuit.
    Off,
    /// Its answer is changed on its way.
    Changed,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Long,
        Self::Form,
        Self::Version,
        Self::Method,
        Self::Target,
        Self::Host,
        Self::Upgrade,
        Self::Body,
        Self::Expect,
        Self::Connection,
        Self::Tunnel,
        Self::Protocol,
        Self::Call,
        Self::Off,
        Self::Changed,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Long => "long",
            Self::Form => "form",
            Self::Version => "version",
            Self::Method => "method",
            Self::Target => "target",
            Self::Host => "host",
            Self::Upgrade => "upgrade",
            Self::Body => "body",
            Self::Expect => "expect",
            Self::Connection => "connection",
            Self::Tunnel => "tunnel",
            Self::Protocol => "protocol",
            Self::Call => "call",
            Self::Off => "off",
            Self::Changed => "changed",
        }
    }
}

/// What the bytes read so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The beginning of a head.
    Part,
    /// A plain request.
    Plain(Request),
    /// Something to hand over.
    Other(Reason),
}

/// Looks at what has been read; `fields` gets the headers.
pub(super) fn look(bytes: &[u8], fields: &mut Vec<Field>) -> Seen {
    match parse(bytes, fields) {
        Ok(Some(request)) => Seen::Plain(request),
        Ok(None) if bytes.len() >= MAX_HEAD => Seen::Other(Reason::Long),
        Ok(None) => Seen::Part,
        Err(reason) => Seen::Other(reason),
    }
}

fn parse(bytes: &[u8], fields: &mut Vec<Field>) -> Result<Option<Request>, Reason> {
    let mut space = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(bytes, &mut space) {
        Ok(httparse::Status::Complete(length)) => length,
        // A second protocol must not be waited for as if it were a head.
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::Long),
        Err(httparse::Error::Version) => return Err(Reason::Version),
        Err(_) => return Err(Reason::Form),
    };
    if length > MAX_HEAD {
        return Err(Reason::Long);
    }
    if parsed.version != Some(1) {
        return Err(Reason::Version);
    }
    let method = Span::of(bytes, parsed.method.unwrap_or_default().as_bytes());
    let target = Span::of(bytes, parsed.path.unwrap_or_default().as_bytes());
    head::note(bytes, parsed.headers, fields);
    let after = target.end();
    let line = after..after + b" HTTP/1.1\r\n".len();
    if method.start() != 0
        || target.start() != method.end() + 1
        || bytes.get(line.clone()) != Some(b" HTTP/1.1\r\n")
        || !head::lines_are_neat(bytes, fields, line.end, length)
    {
        return Err(Reason::Form);
    }
    if !METHODS.contains(&method.text(bytes)) {
        return Err(Reason::Method);
    }
    if !is_origin_form(target.bytes(bytes)) {
        return Err(Reason::Target);
    }
    let headers = Headers {
        bytes,
        fields,
        neat_until: Some(length - 2),
    };
    let (body, close) = plain(&headers)?;
    if body == Body::Chunked && !HAVE_BODIES.contains(&method.text(bytes)) {
        return Err(Reason::Body);
    }
    Ok(Some(Request {
        method,
        target,
        length,
        body,
        close,
    }))
}

/// A path and query of the characters RFC 3986 has for them.
pub(super) fn is_origin_form(target: &[u8]) -> bool {
    target.first() == Some(&b'/')
        && target
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(byte))
}

/// The framing of the body, and whether the client wants the connection closed.
fn plain(headers: &Headers<'_>) -> Result<(Body, bool), Reason> {
    let (mut hosts, mut body, mut close, mut connections) = (0, None, false, 0);
    for field in headers.fields {
        // Most names are told apart by their length.
        match field.name.len() {
            2 if field.is(headers.bytes, "te") => return Err(Reason::Connection),
            4 if field.is(headers.bytes, "host") => {
                hosts += 1;
                if !is_plain_host(field.value.bytes(headers.bytes)) {
                    return Err(Reason::Host);
                }
            }
            6 if field.is(headers.bytes, "expect") => return Err(Reason::Expect),
            7 if field.is(headers.bytes, "upgrade") => return Err(Reason::Upgrade),
            10 if field.is(headers.bytes, "connection") => {
                connections += 1;
                close = closes(field.value.bytes(headers.bytes)).ok_or(Reason::Connection)?;
            }
            14 if field.is(headers.bytes, "content-length") => {
                let digits = digits(field.value.bytes(headers.bytes)).ok_or(Reason::Body)?;
                if body.replace(Body::Length(digits)).is_some() {
                    return Err(Reason::Body);
                }
            }
            14 if field.is(headers.bytes, "http2-settings") => return Err(Reason::Upgrade),
            17 if field.is(headers.bytes, "transfer-encoding") => {
                let coding = field.value.bytes(headers.bytes);
                let chunked = coding.eq_ignore_ascii_case(b"chunked");
                if !chunked || body.replace(Body::Chunked).is_some() {
                    return Err(Reason::Body);
                }
            }
            _ => {}
        }
    }
    if hosts != 1 {
        return Err(Reason::Host);
    }
    if connections > 1 {
        return Err(Reason::Connection);
    }
    Ok((body.unwrap_or(Body::Length(0)), close))
}

fn is_plain_host(host: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
    !host.is_empty() && host.iter().all(plain) && is_host(host)
}

/// Whether `Connection` asks to close; `None` if it says anything but `close` or `keep-alive`.
fn closes(value: &[u8]) -> Option<bool> {
    if value.eq_ignore_ascii_case(b"keep-alive") {
        Some(false)
    } else if value.eq_ignore_ascii_case(b"close") {
        Some(true)
    } else {
        None
    }
}

/// A number of decimal digits and nothing else (RFC 9110 §8.6), far from overflowing.
pub(super) fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0u64, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + u64::from(byte - b'0'))
    })
}
