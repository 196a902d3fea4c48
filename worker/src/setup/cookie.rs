//! The cookies a browser is given.

use patchbay_common::circuit::Circuit;
use patchbay_common::permit::{LEGACY_COOKIE, PermitKey, cookie_name};

use crate::config::{Config, Frontend};

/// Makes cookies.
#[derive(Debug)]
pub(super) struct Cookies {
    permits: PermitKey,
    lifetime: u64,
    secure: &'static str,
    legacy: bool,
    /// The domain in wildcard mode, with its leading dot.
    domain: Option<String>,
}

impl Cookies {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            permits: config.permits.clone(),
            lifetime: config.permit.lifetime.0.as_secs(),
            secure: if config.uses_tls() { "; Secure" } else { "" },
            legacy: config.permit.legacy,
            domain: match &config.frontend {
                Frontend::Wildcard { domain, .. } => Some(domain.clone()),
                Frontend::Port { .. } => None,
            },
        }
    }

    /// The permit of this circuit that comes of a grant, for the host it is set on alone.
    pub(super) fn permit(&self, circuit: &Circuit, grant: &str, now: u64) -> String {
        let expires = now.saturating_add(self.lifetime);
        let permits = &self.permits;
        let value = permits.issue_as(circuit.id, circuit.user_id, grant, expires);
        format!(
            "{}={value}; HttpOnly; {}",
            cookie_name(circuit.id),
            self.rest()
        )
    }

    /// The incumbent's permit, if it is to be set.
    pub(super) fn legacy(&self, circuit: &Circuit) -> Option<String> {
        let user = circuit.user_id.filter(|_| self.legacy)?;
        let domain = self.domain.as_ref();
        let domain = domain.map_or_else(String::new, |domain| format!("Domain={domain}; "));
        Some(format!(
            "{LEGACY_COOKIE}=\"{}\"; {domain}HttpOnly; {}",
            self.permits.legacy(user),
            self.rest()
        ))
    }

    fn rest(&self) -> String {
        format!(
            "Max-Age={}; Path=/; SameSite=Lax{}",
            self.lifetime, self.secure
        )
    }
}
