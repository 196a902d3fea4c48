//! How the routes of an endpoint are probed.

use serde::{Deserialize, Serialize};

/// The owner's wish for checks. The keys and their order are those of the stored text
/// (contract/database.md §4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Probes are made.
    pub enable: bool,
    /// Seconds between probes.
    pub interval: f64,
    /// Path that is asked for.
    pub path: String,
    /// Failures in a row that make a route unhealthy.
    pub max_retries: u32,
    /// Seconds a probe may take.
    pub max_wait_time: f64,
    /// Status of a healthy answer.
    pub expected_status_code: u16,
    /// Seconds in which failures are not held against a new route.
    pub initial_delay: f64,
}
