//! Where clients reach a circuit.

use std::net::IpAddr;

use patchbay_common::circuit::{Circuit, Slot};
use patchbay_common::config::HostPort;

use crate::config::{Config, Frontend};

/// How clients reach the worker's circuits.
#[derive(Debug)]
pub(super) struct AppAddress {
    scheme: &'static str,
    frontend: Frontend,
}

impl AppAddress {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            scheme: if config.uses_tls() { "https" } else { "http" },
            frontend: config.frontend.clone(),
        }
    }

    /// Origin of the circuit, the port always said; `None` if its slot is not of this frontend.
    pub(super) fn base(&self, circuit: &Circuit, asked: Option<&str>) -> Option<String> {
        let authority = match (&self.frontend, circuit.slot()?) {
            (Frontend::Port { .. }, Slot::Port(port)) => HostPort::new(self.host(asked)?, port),
            (
                Frontend::Wildcard {
                    domain,
                    advertised_port,
                    ..
                },
                Slot::Subdomain(name),
            ) => HostPort::new(format!("{name}{domain}"), *advertised_port),
            _ => return None,
        };
        Some(format!("{}://{authority}", self.scheme))
    }

    /// The circuit's port as a URL, for programs.
    pub(super) fn gateway(&self, circuit: &Circuit, asked: Option<&str>) -> Option<String> {
        match circuit.slot()? {
            Slot::Port(port) => Some(format!("tcp://{}", HostPort::new(self.host(asked)?, port))),
            Slot::Subdomain(_) => None,
        }
    }

    /// Whether a cookie set on the host that was asked reaches the circuit.
    pub(super) fn is_here(&self, _: &Circuit, asked: Option<&str>) -> bool {
        match (&self.frontend, asked) {
            (Frontend::Port { .. }, Some(asked)) => self
                .host(Some(asked))
                .is_some_and(|host| host.eq_ignore_ascii_case(asked)),
            _ => false,
        }
    }

    /// The host of ports: as advertised, or where only a wildcard address is configured the one
    /// the browser has reached us by.
    fn host(&self, asked: Option<&str>) -> Option<String> {
        let Frontend::Port {
            advertised_host, ..
        } = &self.frontend
        else {
            return None;
        };
        let nowhere = advertised_host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_unspecified());
        let host = if nowhere { asked } else { None };
        Some(host.unwrap_or(advertised_host).to_owned())
    }
}
