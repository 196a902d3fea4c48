//! What can be read of a route: for reports, health pages and the coordinator.

use std::time::SystemTime;

use patchbay_common::id::{RouteId, SessionId};

use super::Fault;

/// A route as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteState {
    /// The Manager's name for it, if it has one.
    pub route: Option<RouteId>,
    /// The session behind it.
    pub session: SessionId,
    /// `host:port`.
    pub address: String,
    /// Requests may be sent there.
    pub healthy: bool,
    /// Since when that is so.
    pub since: SystemTime,
    /// The latest fault, which may be long mended.
    pub last_fault: Option<Fault>,
    /// Requests and streams under way.
    pub outstanding: usize,
}
