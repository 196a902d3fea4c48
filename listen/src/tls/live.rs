//! TLS in use, exchanged while connections go on.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use pingora_core::listeners::tls::Acceptor;
use rustls::ServerConfig;

use super::certificates::{Expiry, TlsErrors, load};
use super::settings::Plan;

/// What a listener is for, which decides what is spoken (RFC 7301) and who is asked for a
/// certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An API that clients show certificates to, if any are asked for: HTTP/1.1.
    Api,
    /// An API that probes and other programs of ours call, too: HTTP/1.1, nobody is asked for a
    /// certificate.
    OpenApi,
    /// Traffic: HTTP/2 by preference.
    Traffic,
}

/// TLS with the certificates in use. A connection keeps the one it began with.
pub struct Live {
    plan: Plan,
    current: ArcSwap<Current>,
    /// What the files looked like when they were last read.
    seen: Mutex<Fingerprint>,
}

struct Current {
    api: Arc<Acceptor>,
    open_api: Arc<Acceptor>,
    traffic: Arc<Acceptor>,
    expiries: Vec<Expiry>,
}

/// Of each file: device, inode, size and time of the last change.
type Fingerprint = Vec<Option<(u64, u64, u64, i64, i64)>>;

impl Live {
    /// Reads every file of the plan.
    ///
    /// # Errors
    /// What is wrong with them, all together.
    pub fn load(plan: Plan) -> Result<Self, TlsErrors> {
        let seen = fingerprint(&plan);
        let current = Current::load(&plan)?;
        Ok(Self {
            plan,
            current: ArcSwap::from_pointee(current),
            seen: Mutex::new(seen),
        })
    }

    /// What new connections shake hands with.
    pub fn acceptor(&self, purpose: Purpose) -> Arc<Acceptor> {
        let current = self.current.load();
        Arc::clone(match purpose {
            Purpose::Api => &current.api,
            Purpose::OpenApi => &current.open_api,
            Purpose::Traffic => &current.traffic,
        })
    }

    /// When the certificates in use end.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.current.load().expiries.clone()
    }

    /// Reads the files anew. If one cannot be used, everything stays as it is, and the log says
    /// what is wrong.
    pub fn reload(&self) {
        let seen = fingerprint(&self.plan);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        match Current::load(&self.plan) {
            Ok(current) => {
                log::info!("{} certificates were read anew", current.expiries.len());
                self.current.store(Arc::new(current));
            }
            Err(mistakes) => {
                for mistake in mistakes.0 {
                    log::error!("the certificates in use stay: {mistake}");
                }
            }
        }
    }

    /// Reads the files anew whenever they have changed; never returns.
    pub async fn watch(&self) {
        if self.plan.reload_interval.is_zero() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(self.plan.reload_interval).await;
            if self.have_changed() {
                self.reload();
            }
        }
    }

    fn have_changed(&self) -> bool {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != fingerprint(&self.plan)
    }
}

impl Current {
    fn load(plan: &Plan) -> Result<Self, TlsErrors> {
        let loaded = load(plan)?;
        let acceptor = |config: &ServerConfig, protocols: &[&str]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols
                .iter()
                .map(|name| name.as_bytes().to_vec())
                .collect();
            Arc::new(Acceptor::from_server_config(Arc::new(config)))
        };
        Ok(Self {
            api: acceptor(&loaded.config, &["http/1.1"]),
            open_api: acceptor(&loaded.open, &["http/1.1"]),
            traffic: acceptor(&loaded.config, &["h2", "http/1.1"]),
            expiries: loaded.expiries,
        })
    }
}

fn fingerprint(plan: &Plan) -> Fingerprint {
    let look = |(_, file): (&str, &std::path::Path)| {
        let facts = std::fs::metadata(file).ok()?;
        let (at, part) = (facts.mtime(), facts.mtime_nsec());
        Some((facts.dev(), facts.ino(), facts.size(), at, part))
    };
    plan.files().map(look).collect()
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("plan", &self.plan).finish()
    }
}
