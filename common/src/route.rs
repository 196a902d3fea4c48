//! A route: one kernel address a circuit may carry a request to.

use serde::{Deserialize, Serialize};

use crate::circuit::Protocol;
use crate::id::{RouteId, SessionId};

/// One way out of a circuit (`RouteInfo` on the wires, contract/events.md §3). Key order is the
/// contract's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The Manager's name for the route; absent on interactive circuits.
    #[serde(default, alias = "route-id")]
    pub route_id: Option<RouteId>,
    /// The session that runs the kernel.
    #[serde(alias = "session-id")]
    pub session_id: SessionId,
    /// Free text, shown to people only.
    #[serde(default, alias = "session-name")]
    pub session_name: Option<String>,
    /// Host name or address of the kernel; absent means the worker's own machine.
    #[serde(default, alias = "kernel-host")]
    pub kernel_host: Option<String>,
    /// TCP port of the app on that host.
    #[serde(alias = "kernel-port")]
    pub kernel_port: u16,
    /// What the app speaks, as the opener asked for it (may be `vnc`, `preopen`, …).
    #[serde(default)]
    pub protocol: Protocol,
    /// Share of new requests relative to the circuit's other routes; 0 takes it out of service.
    #[serde(default = "full_share", alias = "traffic-ratio")]
    pub traffic_ratio: f64,
}

fn full_share() -> f64 {
    1.0
}

impl Route {
    /// The host to dial: the kernel's, or this machine where the wire carries null.
    pub fn host(&self) -> &str {
        match self.kernel_host.as_deref() {
            None | Some("") => "localhost",
            Some(host) => host,
        }
    }
}
