//! A worker: what it says of itself when it registers, and what the coordinator says of it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::circuit::{AppMode, FrontendMode, Protocol};
use crate::id::{CircuitId, WorkerId};
use crate::timestamp;

/// Body of `PUT /api/worker` (contract/rest-worker.md §3, key order as sent by the Python worker).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// The worker's name. Processes of equal name are nodes of one worker.
    pub authority: String,
    /// What its slots are.
    pub frontend_mode: FrontendMode,
    /// What it carries.
    pub protocol: Protocol,
    /// Host under which clients reach its API (and, in port mode, its ports).
    pub hostname: String,
    /// Its listeners speak TLS.
    pub tls_listen: bool,
    /// Clients reach it by TLS (a TLS terminator may stand in front).
    pub tls_advertised: bool,
    /// Port of its API.
    pub api_port: u16,
    /// Which circuits it takes.
    pub accepted_traffics: Vec<AppMode>,
    /// Takes only circuits that one of its filters names.
    pub filtered_apps_only: bool,
    /// Circuits it takes by preference.
    #[serde(default)]
    pub app_filters: Vec<AppFilter>,
    /// Only the Traefik mode of the incumbent used it; kept.
    #[serde(default)]
    pub traefik_last_used_marker_path: Option<String>,
    /// First and last port, in port mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_range: Option<(u16, u16)>,
    /// Its domain with the leading dot, in wildcard mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wildcard_domain: Option<String>,
    /// Port of its wildcard listener, in wildcard mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wildcard_traffic_port: Option<u16>,
    /// Names this process among the worker's nodes, so that a restart is not counted as a second
    /// node. Patchbay workers send it; Python workers do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
}

/// One `app_filters` entry: a property of the opener (`session.user_uuid`, …) and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppFilter {
    /// `session.<key>` or `endpoint.<key>`.
    pub key: String,
    /// The text it must equal.
    pub value: String,
}

/// Whether a worker is believed to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum WorkerStatus {
    /// It registered or sent a heartbeat lately.
    Alive,
    /// Its heartbeats stopped, or all its nodes left.
    Lost,
    /// Known to the schema, written by nobody.
    Terminated,
}

impl WorkerStatus {
    /// The text stored in `workers.status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "ALIVE",
            Self::Lost => "LOST",
            Self::Terminated => "TERMINATED",
        }
    }

    /// The inverse of [`WorkerStatus::as_str`]; unknown text counts as lost.
    pub fn from_text(text: &str) -> Self {
        match text {
            "ALIVE" => Self::Alive,
            "TERMINATED" => Self::Terminated,
            _ => Self::Lost,
        }
    }
}

/// A worker as the coordinator knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Its key.
    pub id: WorkerId,
    /// Its name.
    pub authority: String,
    /// What its slots are.
    pub frontend_mode: FrontendMode,
    /// What it carries.
    pub protocol: Protocol,
    /// Host of its API.
    pub hostname: String,
    /// Its listeners speak TLS.
    pub tls_listen: bool,
    /// Clients reach it by TLS.
    pub tls_advertised: bool,
    /// Port of its API.
    pub api_port: u16,
    /// First and last port, in port mode.
    pub port_range: Option<(u16, u16)>,
    /// Its domain with the leading dot, in wildcard mode.
    pub wildcard_domain: Option<String>,
    /// Port of its wildcard listener.
    pub wildcard_traffic_port: Option<u16>,
    /// Takes only circuits that one of its filters names.
    pub filtered_apps_only: bool,
    /// Kept for the incumbent's Traefik mode.
    pub traefik_last_used_marker_path: Option<String>,
    /// Which circuits it takes.
    pub accepted_traffics: Vec<AppMode>,
    /// When it first registered.
    pub created_at: DateTime<Utc>,
    /// When it was last heard of.
    pub updated_at: DateTime<Utc>,
    /// Size of its range; -1 where slots are subdomains.
    pub available_slots: i32,
    /// Circuits it holds.
    pub occupied_slots: i32,
    /// Processes that serve under its name.
    pub nodes: i32,
    /// Whether it is believed to serve.
    pub status: WorkerStatus,
}

impl Worker {
    /// `https` when clients reach the worker by TLS.
    pub fn uses_tls(&self) -> bool {
        self.tls_listen || self.tls_advertised
    }

    /// Base URL of its API, without a trailing slash and without a default port
    /// (contract/rest-coordinator.md §7, `/v2/proxy/auth`).
    pub fn api_endpoint(&self) -> String {
        let (scheme, default_port) = if self.uses_tls() {
            ("https", 443)
        } else {
            ("http", 80)
        };
        if self.api_port == default_port {
            format!("{scheme}://{}", self.hostname)
        } else {
            format!("{scheme}://{}:{}", self.hostname, self.api_port)
        }
    }

    /// Room for one more circuit, going by its counters.
    pub fn has_room(&self) -> bool {
        self.frontend_mode == FrontendMode::Wildcard || self.available_slots > self.occupied_slots
    }
}

/// One slot in a worker's answer (contract/rest-coordinator.md §7).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotView {
    /// `port` or `wildcard`.
    pub frontend_mode: FrontendMode,
    /// A circuit holds it.
    pub in_use: bool,
    /// The port, in port mode.
    pub port: Option<u16>,
    /// The subdomain, in wildcard mode.
    pub subdomain: Option<String>,
    /// The holder.
    pub circuit_id: Option<CircuitId>,
}

/// A worker in the coordinator's answers. Key order is the contract's; `generation` is ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its name.
    pub authority: String,
    /// What its slots are.
    pub frontend_mode: FrontendMode,
    /// What it carries.
    pub protocol: Protocol,
    /// Host of its API.
    pub hostname: String,
    /// Its listeners speak TLS.
    pub tls_listen: bool,
    /// Clients reach it by TLS.
    pub tls_advertised: bool,
    /// Port of its API.
    pub api_port: u16,
    /// First and last port, in port mode.
    pub port_range: Option<(u16, u16)>,
    /// Its domain, in wildcard mode.
    pub wildcard_domain: Option<String>,
    /// Port of its wildcard listener.
    pub wildcard_traffic_port: Option<u16>,
    /// Takes only circuits that one of its filters names.
    pub filtered_apps_only: bool,
    /// Kept for the incumbent's Traefik mode.
    pub traefik_last_used_marker_path: Option<String>,
    /// Which circuits it takes.
    pub accepted_traffics: Vec<AppMode>,
    /// Its key.
    pub id: WorkerId,
    /// When it first registered.
    #[serde(with = "timestamp")]
    pub created_at: DateTime<Utc>,
    /// When it was last heard of.
    #[serde(with = "timestamp")]
    pub updated_at: DateTime<Utc>,
    /// Size of its range, or -1.
    pub available_slots: i32,
    /// Circuits it holds.
    pub occupied_slots: i32,
    /// Processes under its name.
    pub nodes: i32,
    /// Its slots.
    pub slots: Vec<SlotView>,
    /// Generation of its circuits: what a worker compares to learn that it missed a change.
    /// Absent in the Python coordinator's answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Generation of the gateway's services; only in the answer to a heartbeat of a worker of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services_generation: Option<u64>,
}
