//! What nodes say of their routes, and what the store counts for those who watch over it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_common::circuit::{AppMode, Protocol};
use patchbay_common::id::WorkerId;
use patchbay_common::route_report::RouteReport;

/// What one node said last.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeReport {
    /// Its worker.
    pub worker: WorkerId,
    /// Its name among the worker's nodes.
    pub node: String,
    /// When it said so.
    pub reported_at: DateTime<Utc>,
    /// What it said.
    pub report: RouteReport,
}

/// Circuits of one kind on one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitCount {
    /// The worker.
    pub worker: WorkerId,
    /// Interactive or inference.
    pub app_mode: AppMode,
    /// What they carry.
    pub protocol: Protocol,
    /// How many.
    pub count: u64,
}

/// What is counted in the store, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Circuits by worker and kind.
    pub circuits: Vec<CircuitCount>,
    /// Committed events that are not yet noted as published.
    pub outbox: u64,
}

/// Hears of every piece of work of a store: what it was, how long it took, whether it was done.
pub type Observer = Arc<dyn Fn(&'static str, Duration, bool) + Send + Sync>;
