//! A call as the API sees it, and an answer on its way out.

use std::net::IpAddr;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    SERVER, SET_COOKIE,
};
use http::{Method, Response, StatusCode};
use patchbay_common::request_id::{self, RequestId};
use pingora_core::protocols::http::ServerSession;

use super::cors;

/// The parts of a request that matter here.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) peer: Option<IpAddr>,
    query: String,
    authority: Option<String>,
}

impl Call {
    pub(super) fn of(session: &ServerSession) -> Self {
        let head = session.req_header();
        let peer = session.client_addr().and_then(|peer| peer.as_inet());
        Self {
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            headers: head.headers.clone(),
            peer: peer.map(std::net::SocketAddr::ip),
            query: head.uri.query().unwrap_or_default().to_owned(),
            authority: head.uri.host().map(str::to_owned),
        }
    }

    pub(super) fn header(&self, name: HeaderName) -> Option<&HeaderValue> {
        self.headers.get(name)
    }

    /// The first value of a parameter, unescaped.
    pub(super) fn query_value(&self, name: &str) -> Option<String> {
        let url = reqwest::Url::parse(&format!("http://query/?{}", self.query)).ok()?;
        url.query_pairs()
            .find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    }

    /// The host asked for, without its port and without an address's brackets.
    pub(super) fn host_name(&self) -> Option<&str> {
        let host = self.headers.get(http::header::HOST);
        let host = host.and_then(|host| host.to_str().ok());
        let host = self.authority.as_deref().or(host)?.trim();
        let bare = match host.strip_prefix('[') {
            Some(inner) => inner.split(']').next().unwrap_or(inner),
            None => host.split(':').next().unwrap_or(host),
        };
        Some(bare).filter(|bare| !bare.is_empty())
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    pub(super) fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers,
            body,
        }
    }

    pub(super) fn json(status: u16, body: &serde_json::Value) -> Self {
        let text = body.to_string().into_bytes();
        Self::new(status, "application/json; charset=utf-8", text)
    }

    pub(super) fn empty(status: u16) -> Self {
        let mut reply = Self::new(status, "text/plain; charset=utf-8", Vec::new());
        reply.headers.remove(CONTENT_TYPE);
        reply
    }

    /// A redirect with cookies.
    pub(super) fn found(location: &str, cookies: &[String]) -> Self {
        let body = b"302: Found".to_vec();
        let mut reply = Self::new(302, "text/plain; charset=utf-8", body);
        reply.set(LOCATION, location);
        for cookie in cookies {
            match HeaderValue::from_str(cookie) {
                Ok(value) => {
                    reply.headers.append(SET_COOKIE, value);
                }
                Err(cause) => log::error!("a cookie cannot be written: {cause}"),
            }
        }
        reply
    }

    /// Any page may read it, no cache may keep it.
    pub(super) fn for_everyone(mut self) -> Self {
        let any = HeaderValue::from_static("*");
        self.headers
            .insert(ACCESS_CONTROL_ALLOW_ORIGIN, any.clone());
        self.headers
            .insert(ACCESS_CONTROL_ALLOW_HEADERS, any.clone());
        self.headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, any);
        self.headers
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self
    }

    /// Sets a header; one whose value no header takes is left out.
    pub(super) fn set(&mut self, name: HeaderName, value: &str) {
        match HeaderValue::from_str(value) {
            Ok(value) => {
                self.headers.insert(name, value);
            }
            Err(cause) => log::error!("the header {name} cannot be written: {cause}"),
        }
    }

    pub(super) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(super) fn into_response(mut self, call: &Call, id: &RequestId) -> Response<Vec<u8>> {
        self.set(HeaderName::from_static(request_id::HEADER), id.as_str());
        self.set(
            HeaderName::from_static(request_id::LEGACY_HEADER),
            id.as_str(),
        );
        self.headers
            .insert(SERVER, HeaderValue::from_static("BackendAI"));
        self.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        cors::expose(call, &mut self);
        let body = if call.method == Method::HEAD {
            Vec::new()
        } else {
            self.body
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
