//! A circuit: a slot (port or subdomain) of one worker that leads to one app.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::grant::Revocations;
use crate::health_check::HealthCheck;
use crate::id::{CircuitId, EndpointId, SessionId, UserId, WorkerId};
use crate::route::Route;
use crate::timestamp;

/// What an app, a circuit or a worker speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, WebSocket and server-sent events included.
    #[default]
    Http,
    /// gRPC over HTTP/2.
    Grpc,
    /// HTTP/2.
    H2,
    /// A plain byte stream.
    Tcp,
    /// An app the kernel itself opened before the session started; carried as HTTP.
    Preopen,
    /// A VNC desktop; carried as TCP.
    Vnc,
    /// A remote desktop; carried as TCP.
    Rdp,
}

impl Protocol {
    /// The protocol a circuit is stored and carried with: `preopen` is HTTP, `vnc` and `rdp` are
    /// TCP (contract/rest-coordinator.md §7).
    pub fn carried(self) -> Self {
        match self {
            Self::Preopen => Self::Http,
            Self::Vnc | Self::Rdp => Self::Tcp,
            other => other,
        }
    }

    /// The wire word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::H2 => "h2",
            Self::Tcp => "tcp",
            Self::Preopen => "preopen",
            Self::Vnc => "vnc",
            Self::Rdp => "rdp",
        }
    }

    /// The label of PostgreSQL's `proxyprotocol` and of the incumbent's metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Grpc => "GRPC",
            Self::H2 => "HTTP2",
            Self::Tcp => "TCP",
            Self::Preopen => "PREOPEN",
            Self::Vnc => "VNC",
            Self::Rdp => "RDP",
        }
    }

    /// The inverse of [`Protocol::label`].
    pub fn from_label(label: &str) -> Option<Self> {
        const ALL: [Protocol; 7] = [
            Protocol::Http,
            Protocol::Grpc,
            Protocol::H2,
            Protocol::Tcp,
            Protocol::Preopen,
            Protocol::Vnc,
            Protocol::Rdp,
        ];
        ALL.into_iter().find(|protocol| protocol.label() == label)
    }
}

/// Who a circuit serves, which decides its credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppMode {
    /// A person's app: permit cookie.
    Interactive,
    /// A model-serving endpoint: bearer token.
    Inference,
}

impl AppMode {
    /// The label of PostgreSQL's `appmode`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Interactive => "INTERACTIVE",
            Self::Inference => "INFERENCE",
        }
    }

    /// The inverse of [`AppMode::label`].
    pub fn from_label(label: &str) -> Option<Self> {
        match label {
            "INTERACTIVE" => Some(Self::Interactive),
            "INFERENCE" => Some(Self::Inference),
            _ => None,
        }
    }
}

/// What a worker's slots are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrontendMode {
    /// A subdomain of the worker's wildcard domain.
    Wildcard,
    /// A port of the worker's range.
    Port,
}

impl FrontendMode {
    /// The label of PostgreSQL's `frontendmode`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Wildcard => "WILDCARD_DOMAIN",
            Self::Port => "PORT",
        }
    }

    /// The inverse of [`FrontendMode::label`].
    pub fn from_label(label: &str) -> Option<Self> {
        match label {
            "WILDCARD_DOMAIN" => Some(Self::Wildcard),
            "PORT" => Some(Self::Port),
            _ => None,
        }
    }
}

/// The place on a worker where a circuit is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// A listening port.
    Port(u16),
    /// The label in front of the worker's wildcard domain, lower case.
    Subdomain(String),
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => port.fmt(f),
            Self::Subdomain(name) => f.write_str(name),
        }
    }
}

/// A circuit as every wire carries it. The first nineteen keys and their order are the contract's
/// (contract/rest-coordinator.md §7); readers of every release ignore the ones after them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Circuit {
    /// Its key.
    pub id: CircuitId,
    /// App or service name.
    #[serde(default)]
    pub app: Option<String>,
    /// What it carries, after [`Protocol::carried`].
    pub protocol: Protocol,
    /// The worker whose slot it occupies.
    pub worker: WorkerId,
    /// Interactive or inference.
    pub app_mode: AppMode,
    /// Whether `port` or `subdomain` is its slot.
    pub frontend_mode: FrontendMode,
    /// Environment the opener passed along; kept and shown, not interpreted.
    #[serde(default)]
    pub envs: serde_json::Map<String, serde_json::Value>,
    /// Arguments the opener passed along; kept and shown, not interpreted.
    #[serde(default)]
    pub arguments: Option<String>,
    /// Anyone may use it, no credential asked.
    #[serde(default)]
    pub open_to_public: bool,
    /// Comma-separated addresses and networks allowed to use it.
    #[serde(default)]
    pub allowed_client_ips: Option<String>,
    /// Its port, in port mode.
    #[serde(default)]
    pub port: Option<u16>,
    /// Its subdomain, in wildcard mode.
    #[serde(default)]
    pub subdomain: Option<String>,
    /// Its owner.
    #[serde(default)]
    pub user_id: Option<UserId>,
    /// The endpoint it serves, when it is an inference circuit.
    #[serde(default)]
    pub endpoint_id: Option<EndpointId>,
    /// The model server's kind, free text.
    #[serde(default)]
    pub runtime_variant: Option<String>,
    /// Where its requests may go.
    #[serde(default)]
    pub route_info: Vec<Route>,
    /// The sessions it was opened for; empty on inference circuits.
    #[serde(default)]
    pub session_ids: Vec<SessionId>,
    /// When it was opened.
    #[serde(with = "timestamp")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "timestamp")]
    pub updated_at: DateTime<Utc>,
    /// Id of the request that opened it (contract/request-id.md §3).
    #[serde(default)]
    pub origin_request_id: Option<String>,
    /// How its routes are probed, on circuits of endpoints whose owner wished it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Grants to it that count no more.
    #[serde(default, skip_serializing_if = "Revocations::is_empty")]
    pub revocations: Revocations,
}

impl Circuit {
    /// Where on its worker the circuit is found; `None` if the wire left the slot out.
    pub fn slot(&self) -> Option<Slot> {
        match self.frontend_mode {
            FrontendMode::Port => self.port.map(Slot::Port),
            FrontendMode::Wildcard => self
                .subdomain
                .as_ref()
                .map(|name| Slot::Subdomain(name.to_ascii_lowercase())),
        }
    }
}
