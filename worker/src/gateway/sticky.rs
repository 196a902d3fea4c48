//! Sticky sessions: a cookie that keeps a client at one instance.
//!
//! Its value is an authenticated digest of the instance's address, so that it tells nobody the
//! address and nobody can make one that leads to an instance of his choice.

use std::fmt::Write as _;
use std::sync::Arc;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::upstream::{Upstream, UpstreamSet};

/// Bytes of the digest that are used.
const LENGTH: usize = 16;

/// The cookie of a service.
#[derive(Debug)]
pub struct Sticky {
    /// Its name.
    pub cookie: String,
    /// `Max-Age`, in seconds; `None` makes it last as long as the browser runs.
    lifetime: Option<u64>,
    secure: bool,
    values: Vec<(String, Arc<Upstream>)>,
}

impl Sticky {
    /// The cookie of the service `name` with these instances.
    pub fn new(
        (key, name): (&[u8], &str),
        cookie: String,
        lifetime: Option<u64>,
        secure: bool,
        instances: &UpstreamSet,
    ) -> Self {
        let value =
            |upstream: &Arc<Upstream>| (value(key, name, &upstream.label), Arc::clone(upstream));
        Self {
            cookie,
            lifetime,
            secure,
            values: instances.all().map(value).collect(),
        }
    }

    /// The instance a cookie's value names.
    pub fn instance(&self, value: &str) -> Option<&Arc<Upstream>> {
        let named = self
            .values
            .iter()
            .find(|(known, _)| known.as_bytes().ct_eq(value.as_bytes()).into());
        named.map(|(_, upstream)| upstream)
    }

    /// `Set-Cookie` for an instance.
    pub fn set_cookie(&self, instance: &Arc<Upstream>) -> Option<String> {
        let mut values = self.values.iter();
        let (value, _) = values.find(|(_, upstream)| Arc::ptr_eq(upstream, instance))?;
        let mut text = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax", self.cookie);
        if let Some(seconds) = self.lifetime {
            // Writing to a String cannot fail.
            let _ = write!(text, "; Max-Age={seconds}");
        }
        if self.secure {
            text.push_str("; Secure");
        }
        Some(text)
    }
}

fn value(key: &[u8], service: &str, label: &str) -> String {
    let mut text = String::with_capacity(LENGTH * 2);
    // A key of any length will do.
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(key) else {
        return text;
    };
    mac.update(service.as_bytes());
    mac.update(&[0]);
    mac.update(label.as_bytes());
    let digest = mac.finalize().into_bytes();
    for byte in digest.iter().take(LENGTH) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
