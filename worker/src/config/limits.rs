//! `[limits]`: what one client, one connection, one request may cost.

use std::collections::BTreeMap;

use patchbay_common::config::{ByteSize, Loader, Mistake};
use serde::Deserialize;

/// The bounds. Zero means none, except for heads, which always have one.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Connections of one address at once: one IPv4 address, or one IPv6 network of 64 bits, which
    /// is what one customer is given.
    pub connections_per_address: usize,
    /// Header fields of a request.
    pub header_fields: usize,
    /// Bytes of a request's head.
    pub header_bytes: ByteSize,
    /// Requests over one connection, after which it is closed.
    pub requests_per_connection: u32,
    /// Bytes of a request's body.
    pub body: ByteSize,
    /// The same for circuits of an app, by the app's name.
    pub body_by_app: BTreeMap<String, ByteSize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_address: 0,
            header_fields: 200,
            header_bytes: ByteSize(64 << 10),
            requests_per_connection: 0,
            body: ByteSize(0),
            body_by_app: BTreeMap::new(),
        }
    }
}

impl Limits {
    /// Longest body for an app's circuits; 0 means no limit.
    pub fn body_of(&self, app: Option<&str>) -> u64 {
        let own = app.and_then(|app| self.body_by_app.get(app));
        own.unwrap_or(&self.body).0
    }

    /// Notes what cannot be.
    pub(super) fn check(self, loader: &mut Loader) -> Self {
        // What the engines can read at most.
        const FIELDS: usize = 256;
        const BYTES: u64 = 1 << 20;
        if self.header_fields == 0 || self.header_fields > FIELDS {
            loader.mistake(Mistake::new(
                "limits.header_fields",
                format!("must be between 1 and {FIELDS}: 200 is usual"),
            ));
        }
        if self.header_bytes.0 == 0 || self.header_bytes.0 > BYTES {
            loader.mistake(Mistake::new(
                "limits.header_bytes",
                "must be between 1 and \"1MiB\": \"64KiB\" is usual",
            ));
        }
        self
    }
}
