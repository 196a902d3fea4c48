//! Health as probes and people read it (contract/rest-coordinator.md §7, rest-worker.md §1).
//!
//! A worker that has its circuits carries traffic without Redis and without the coordinator, so
//! neither being away makes it unfit: `livez` tells that the process turns, `readyz` that the
//! circuits are known. What is away is named in the body, and makes `/health` say `degraded`.

use chrono::{DateTime, Utc};
use patchbay_common::timestamp;
use serde_json::{Value, json};

use crate::config::{Config, Frontend};
use crate::sync::{Reach, Status};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Which question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// How is everything?
    Whole,
    /// Does the process turn?
    Live,
    /// Can it carry traffic?
    Ready,
}

/// What the answers say of the configuration.
#[derive(Debug)]
pub(super) struct Health {
    authority: String,
    app_mode: &'static str,
    protocol: &'static str,
    available_slots: u32,
}

impl Health {
    pub(super) fn new(config: &Config) -> Self {
        let (app_mode, available_slots) = match &config.frontend {
            Frontend::Port { range, .. } => ("port", u32::from(range.1) - u32::from(range.0) + 1),
            Frontend::Wildcard { .. } => ("wildcard", 0),
        };
        Self {
            authority: config.authority.clone(),
            app_mode,
            protocol: config.protocol.as_str(),
            available_slots,
        }
    }

    /// `GET /health/status`.
    pub(super) fn worker(&self, occupied: usize) -> Value {
        json!({
            "version": VERSION,
            "authority": self.authority,
            "app_mode": self.app_mode,
            "protocol": self.protocol,
            "occupied_slots": occupied,
            "available_slots": self.available_slots,
        })
    }

    /// Status and body of a probe.
    pub(super) fn report(&self, probe: Probe, status: &Status) -> (u16, Value) {
        let mut checks = vec![check("coordinator", "api", &status.coordinator_reach)];
        if status.redis.is_some() {
            // One server serves both (contract/events.md §1).
            checks.push(check("redis", "live", &status.redis_reach));
            checks.push(check("redis", "stat", &status.redis_reach));
        }
        let healthy = checks.iter().all(|check| check["is_healthy"] == true);
        let (code, word) = match probe {
            Probe::Whole if healthy && status.ready => (200, "ok"),
            Probe::Whole => (200, "degraded"),
            Probe::Ready if !status.ready => (503, "error"),
            Probe::Live | Probe::Ready => (200, "ok"),
        };
        let body = json!({
            "status": word,
            "version": VERSION,
            "component": "appproxy-worker",
            "connectivity": {
                "overall_healthy": healthy,
                "connectivity_checks": checks,
                "timestamp": wire(&timestamp::now()),
            },
        });
        (code, body)
    }
}

fn check(group: &str, component: &str, reach: &Reach) -> Value {
    json!({
        "service_group": group,
        "component_id": component,
        "is_healthy": reach.healthy,
        "last_checked_at": wire(&reach.checked_at),
        "error_message": reach.error,
    })
}

fn wire(at: &DateTime<Utc>) -> String {
    timestamp::format(at)
}
