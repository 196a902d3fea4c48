//! Requests made by hand, for this room's tests.

use std::net::SocketAddr;

use crate::stage::{Client, Head, HeaderLookup};

/// Headers by lower-case name.
#[derive(Default)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        let pairs = pairs.iter();
        Self(
            pairs
                .map(|&(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl HeaderLookup for Headers {
    fn get(&self, name: &str) -> Option<&[u8]> {
        let mut all = self.0.iter();
        all.find(|(one, _)| *one == name)
            .map(|(_, value)| value.as_bytes())
    }

    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for (_, value) in self.0.iter().filter(|(one, _)| *one == name) {
            visit(value.as_bytes());
        }
    }
}

pub(crate) fn head<'a>(method: &'a str, target: &'a str, headers: &'a Headers) -> Head<'a> {
    let here: SocketAddr = ([127, 0, 0, 1], 80).into();
    Head {
        method,
        target,
        authority: None,
        is_http11: true,
        headers,
        peer: here,
        local: here,
        tls: false,
    }
}

pub(crate) fn client(address: &str) -> Client {
    Client {
        address: SocketAddr::new(address.parse().unwrap(), 0),
        by_trusted_proxy: false,
    }
}
