//! Sections that the coordinator's and the worker's files have in common
//! (contract/config.md §2). Keys of the incumbent that mean nothing here are listed in `load`.

use serde::Deserialize;

use super::{HostPort, Loader, Mistake, Secret};
use crate::cli::{CommonArgs, LogFormat, parse_level};
use crate::permit::{Digest, PermitKey};
use crate::telemetry::log_line;
use crate::token::TokenKey;

/// `[secrets]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Secrets {
    /// The token of the coordinator's REST API.
    pub api_secret: Option<Secret>,
    /// The key of setup and endpoint tokens.
    pub jwt_secret: Option<Secret>,
}

impl Secrets {
    /// The API token; a mistake is noted if it is missing.
    pub fn require_api(&self, loader: &mut Loader) -> Secret {
        loader.require("secrets", "api_secret", self.api_secret.clone())
    }

    /// The token key; a mistake is noted if it is missing.
    pub fn require_jwt(&self, loader: &mut Loader) -> TokenKey {
        let secret = loader.require("secrets", "jwt_secret", self.jwt_secret.clone());
        TokenKey::new(secret.expose())
    }
}

/// `[permit_hash]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PermitHash {
    /// The key of permit cookies.
    pub secret: Option<Secret>,
    /// Their hash.
    pub digest_mod: Digest,
}

impl PermitHash {
    /// The permit key; a mistake is noted if the secret is missing.
    pub fn require(&self, loader: &mut Loader) -> PermitKey {
        let secret = loader.require("permit_hash", "secret", self.secret.clone());
        PermitKey::new(secret.expose(), self.digest_mod)
    }
}

/// `[redis]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Redis {
    /// One server.
    pub addr: Option<HostPort>,
    /// Sentinels that know the server, with `service_name`.
    pub sentinel: Option<Vec<HostPort>>,
    /// The name the sentinels know the server by.
    pub service_name: Option<String>,
    /// Password of the default user.
    pub password: Option<Secret>,
}

/// Where Redis is.
#[derive(Clone, Debug, PartialEq)]
pub enum RedisAddress {
    /// At a fixed address.
    Single(HostPort),
    /// Wherever the sentinels say.
    Sentinel {
        /// The sentinels.
        nodes: Vec<HostPort>,
        /// The name they know the server by.
        service_name: String,
    },
}

impl Redis {
    /// Where Redis is; `None` if the section names nothing (a bus without Redis is used then).
    pub fn address(&self, loader: &mut Loader) -> Option<RedisAddress> {
        match (&self.addr, &self.sentinel) {
            (_, Some(nodes)) if !nodes.is_empty() => {
                let name = self.service_name.clone();
                Some(RedisAddress::Sentinel {
                    nodes: nodes.clone(),
                    service_name: loader.require("redis", "service_name", name),
                })
            }
            (Some(addr), _) => Some(RedisAddress::Single(addr.clone())),
            (None, _) => None,
        }
    }
}

/// `[logging]`, with our key `format`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// Least severe level, in the incumbent's or our spelling.
    pub level: Option<String>,
    /// `text` or `json`.
    pub format: Option<LogFormat>,
}

impl Logging {
    /// Installs the logger; flags win over the file. A mistake is noted for an unknown level.
    pub fn install(&self, args: &CommonArgs, loader: &mut Loader) {
        let level = self
            .level
            .as_deref()
            .map_or(Ok(log::LevelFilter::Info), parse_level);
        let level = level.unwrap_or_else(|fix| {
            loader.mistake(Mistake::new("logging.level", fix));
            log::LevelFilter::Info
        });
        let format = args.log_format.or(self.format).unwrap_or_default();
        log_line::install(args.log_level.unwrap_or(level), format);
    }
}
