//! The borrowed view of a request that stages read, and the door through which they write.

use std::net::SocketAddr;

use http::{HeaderName, HeaderValue};

/// Headers by lower-case name.
pub trait HeaderLookup {
    /// The first value.
    fn get(&self, name: &str) -> Option<&[u8]>;
    /// Every value, in order.
    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]));
    /// How many values there are.
    fn count(&self, name: &str) -> usize {
        let mut count = 0;
        self.each(name, &mut |_| count += 1);
        count
    }
}

/// A head that stages may change; names are lower case.
pub trait HeaderSink: HeaderLookup {
    /// Makes this the only value.
    fn set(&mut self, name: &'static str, value: &str);
    /// As [`HeaderSink::set`], for a name that is only known from the configuration.
    fn write(&mut self, name: &HeaderName, value: &HeaderValue);
    /// Adds a value to those there are.
    fn add(&mut self, name: &HeaderName, value: &HeaderValue);
    /// Takes all values out.
    fn remove(&mut self, name: &str);
    /// Takes out every header that a service could take for this one: some make no difference
    /// between `-` and `_`.
    fn remove_alike(&mut self, name: &HeaderName);
}

/// Whether a service could take one name for the other; both are lower case.
pub fn is_alike(one: &str, other: &str) -> bool {
    let dash = |byte: u8| if byte == b'_' { b'-' } else { byte };
    one.len() == other.len() && one.bytes().map(dash).eq(other.bytes().map(dash))
}

/// A request's head.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Its method.
    pub method: &'a str,
    /// Path and query as sent, or the whole target where it is in another form.
    pub target: &'a str,
    /// The authority of the target (absolute form, HTTP/2), if it has one.
    pub authority: Option<&'a str>,
    /// HTTP/1.1 or later.
    pub is_http11: bool,
    /// Its headers.
    pub headers: &'a dyn HeaderLookup,
    /// The TCP peer.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// It came by TLS to us.
    pub tls: bool,
}

impl Head<'_> {
    /// The target's path, without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or(self.target)
    }

    /// The host asked for: the target's authority, else `Host`.
    pub fn host(&self) -> Option<&str> {
        self.authority
            .or_else(|| std::str::from_utf8(self.headers.get("host")?).ok())
            .map(str::trim)
            .filter(|host| !host.is_empty())
    }

    /// Whether it asks for a WebSocket (RFC 6455 §4.2.1), compared as HTTP compares.
    pub fn is_upgrade(&self) -> bool {
        let lists = |name: &str, wanted: &str| {
            let mut found = false;
            self.headers.each(name, &mut |value| {
                found |= value
                    .split(|byte| *byte == b',')
                    .any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()));
            });
            found
        };
        self.is_http11 && lists("upgrade", "websocket") && lists("connection", "upgrade")
    }
}
