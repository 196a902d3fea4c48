//! Pingora's heads as the stages see them.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_core::Result;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::tls::TlsStream;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::streams;
use crate::conduct::Raw;
use crate::frontend::{Control, Guarded, Socket};
use crate::stage::{Head, HeaderLookup, HeaderSink, is_alike, is_hop_by_hop};

/// A header map as the stages read it.
pub(super) struct Headers<'a>(pub(super) &'a HeaderMap);

impl HeaderLookup for Headers<'_> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(http::HeaderValue::as_bytes)
    }

    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for value in self.0.get_all(name) {
            visit(value.as_bytes());
        }
    }
}

/// Tells the guard of a session's connection, or of its stream where it speaks HTTP/2.
pub(super) fn with_guard(session: &Session, tell: impl FnOnce(&Control)) {
    let Some(stream) = session.as_downstream().stream() else {
        return streams::with_guard(tell);
    };
    let stream = stream.as_any();
    let control = stream
        .downcast_ref::<Guarded<Socket>>()
        .map(Guarded::control)
        .or_else(|| {
            stream
                .downcast_ref::<Guarded<TlsStream<L4Stream>>>()
                .map(Guarded::control)
        });
    if let Some(control) = control {
        tell(control);
    }
}

/// Makes one header of the crumbs in which HTTP/2 may bring cookies (RFC 9113 §8.2.3).
pub(super) fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let crumbs = request.headers.get_all("cookie");
    if crumbs.iter().nth(1).is_none() {
        return Ok(());
    }
    let crumbs: Vec<&[u8]> = crumbs.iter().map(http::HeaderValue::as_bytes).collect();
    let whole = crumbs.join(&b"; "[..]);
    request.insert_header("cookie", whole)
}

/// Whether any of the `Connection` headers asks for the connection's end; Pingora looks at the first.
pub(super) fn wants_close(session: &Session) -> bool {
    let values = session
        .req_header()
        .headers
        .get_all("connection")
        .into_iter();
    let mut tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Makes a path of a target that is a whole address, as origins are asked (RFC 9112 §3.2.1).
pub(super) fn take_origin_form(request: &mut RequestHeader) {
    // Pingora keeps the bytes of such a target beside its path.
    if request.raw_path().starts_with(b"/") || request.raw_path() == b"*" {
        return;
    }
    let target = request.uri.path_and_query().cloned();
    let target = target.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    request.set_uri(target.into());
}

/// Makes of an app's answer one that its client can read: in our own version (RFC 9110 §6.2), and
/// for a client of HTTP/1.0 without chunks, ended by the connection's end (RFC 9112 §6.1).
pub(super) fn speak_to(session: &mut Session, answer: &mut ResponseHeader) {
    if session.as_downstream().is_http2() {
        return;
    }
    answer.set_version(http::Version::HTTP_11);
    let old = session.req_header().version < http::Version::HTTP_11;
    if old && answer.remove_header("transfer-encoding").is_some() {
        session.set_keepalive(None);
    }
}

/// Whether an answer's body is framed as everybody understands it: nobody has said that they read
/// another coding than chunks (RFC 9112 §7.4).
pub(super) fn is_framed(answer: &ResponseHeader) -> bool {
    let codings = answer.headers.get_all("transfer-encoding");
    let mut codings = codings.iter().map(HeaderValue::as_bytes);
    let chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    codings.next().is_none_or(chunked) && codings.next().is_none()
}

/// Whether the client says that it reads trailers (RFC 9110 §10.1.4).
pub(super) fn takes_trailers(session: &Session) -> bool {
    let values = session.req_header().headers.get_all("te").into_iter();
    let mut tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// A session's request, with what the stages need beside its headers.
pub(super) struct View<'a> {
    request: &'a RequestHeader,
    headers: Headers<'a>,
    raw: Option<Bytes>,
    peer: SocketAddr,
    local: SocketAddr,
    tls: bool,
}

impl<'a> View<'a> {
    /// `None` if the connection is not over TCP, which no frontend of ours is.
    pub(super) fn of(session: &'a Session) -> Option<Self> {
        let downstream = session.as_downstream();
        let request = downstream.req_header();
        Some(Self {
            request,
            headers: Headers(&request.headers),
            raw: downstream
                .as_http1()
                .map(|http1| http1.get_headers_raw_bytes()),
            peer: *downstream.client_addr()?.as_inet()?,
            local: *downstream.server_addr()?.as_inet()?,
            tls: downstream
                .digest()
                .is_some_and(|digest| digest.ssl_digest.is_some()),
        })
    }

    pub(super) fn head(&self) -> Head<'_> {
        let uri = &self.request.uri;
        // `GET app HTTP/1.1`: Pingora makes something of the word; the stages have to see it.
        let sent = self.request.raw_path();
        let whole = sent.starts_with(b"/") || sent.windows(3).any(|three| three == b"://");
        let bare = (!whole).then(|| std::str::from_utf8(sent).unwrap_or("?"));
        let authority = uri.authority().map(http::uri::Authority::as_str);
        Head {
            method: self.request.method.as_str(),
            target: bare.unwrap_or_else(|| {
                uri.path_and_query()
                    .map_or("/", http::uri::PathAndQuery::as_str)
            }),
            authority: authority.filter(|_| bare.is_none()),
            is_http11: self.request.version >= http::Version::HTTP_11,
            headers: &self.headers,
            peer: self.peer,
            local: self.local,
            tls: self.tls,
        }
    }

    /// How the head came.
    pub(super) fn raw(&self) -> Raw<'_> {
        self.raw.as_deref().map_or(Raw::Frames, Raw::Bytes)
    }
}

/// A head as the stages write it. Values they write are texts of ours or a client's header, so a
/// refusal by the map is rare; it is kept until `finish`.
pub(super) struct Sink<'a> {
    target: Target<'a>,
    failed: Option<Box<pingora_core::Error>>,
}

enum Target<'a> {
    Request(&'a mut RequestHeader),
    Response(&'a mut ResponseHeader),
}

impl<'a> Sink<'a> {
    pub(super) fn of_request(request: &'a mut RequestHeader) -> Self {
        Self {
            target: Target::Request(request),
            failed: None,
        }
    }

    pub(super) fn of_response(response: &'a mut ResponseHeader) -> Self {
        Self {
            target: Target::Response(response),
            failed: None,
        }
    }

    pub(super) fn finish(self) -> Result<()> {
        self.failed.map_or(Ok(()), Err)
    }

    fn headers(&self) -> &HeaderMap {
        match &self.target {
            Target::Request(request) => &request.headers,
            Target::Response(response) => &response.headers,
        }
    }
}

impl HeaderLookup for Sink<'_> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.headers().get(name).map(http::HeaderValue::as_bytes)
    }

    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for value in self.headers().get_all(name) {
            visit(value.as_bytes());
        }
    }
}

impl HeaderSink for Sink<'_> {
    fn set(&mut self, name: &'static str, value: &str) {
        let result = match &mut self.target {
            Target::Request(request) => request.insert_header(name, value),
            Target::Response(response) => response.insert_header(name, value),
        };
        if let Err(error) = result {
            self.failed.get_or_insert(error);
        }
    }

    fn write(&mut self, name: &HeaderName, value: &HeaderValue) {
        let result = match &mut self.target {
            Target::Request(request) => request.insert_header(name, value),
            Target::Response(response) => response.insert_header(name, value),
        };
        if let Err(error) = result {
            self.failed.get_or_insert(error);
        }
    }

    fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        let result = match &mut self.target {
            Target::Request(request) => request.append_header(name, value),
            Target::Response(response) => response.append_header(name, value),
        };
        if let Err(error) = result {
            self.failed.get_or_insert(error);
        }
    }

    fn remove_alike(&mut self, name: &HeaderName) {
        let present = self.headers().keys().map(HeaderName::as_str);
        let alike: Vec<String> = present
            .filter(|one| is_alike(one, name.as_str()))
            .map(str::to_owned)
            .collect();
        for name in alike {
            self.remove(&name);
        }
    }

    fn remove(&mut self, name: &str) {
        match &mut self.target {
            Target::Request(request) => drop(request.remove_header(name)),
            Target::Response(response) => drop(response.remove_header(name)),
        }
    }
}

/// Takes out what is about one connection only, and what `Connection` names besides.
/// `Transfer-Encoding` stays: Pingora frames the body by it.
pub(super) fn remove_hop_by_hop(sink: &mut Sink<'_>) {
    let mut gone: Vec<String> = Vec::new();
    for value in sink.headers().get_all("connection") {
        for token in value.as_bytes().split(|byte| *byte == b',') {
            let token = String::from_utf8_lossy(token.trim_ascii()).to_ascii_lowercase();
            // Nobody may have the framing or the host taken out of a request by naming them.
            if !matches!(
                token.as_str(),
                "" | "host" | "content-length" | "transfer-encoding"
            ) {
                gone.push(token);
            }
        }
    }
    let present = sink.headers().keys().map(http::HeaderName::as_str);
    gone.extend(
        present
            .filter(|name| is_hop_by_hop(name) && *name != "transfer-encoding")
            .map(str::to_owned),
    );
    for name in gone {
        sink.remove(&name);
    }
}
