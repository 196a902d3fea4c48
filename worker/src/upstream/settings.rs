//! How upstreams are chosen, watched and bounded.

use std::time::Duration;

use serde::Deserialize;

/// How a request's upstream is chosen among those in service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// By weight where the routes' weights differ; else as [`Policy::LeastOutstanding`].
    #[default]
    Balanced,
    /// At random, in proportion to the weights.
    Weighted,
    /// Two at random, and of those the one with fewer requests under way.
    LeastOutstanding,
    /// One after the other.
    RoundRobin,
    /// The same client to the same upstream, as long as it is in service (ketama).
    ConsistentHash,
}

/// The rules of one set of upstreams; shared by all circuits of a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How one is chosen.
    pub policy: Policy,
    /// Faults in a row that take an upstream out of service (contract/data-plane.md §8).
    pub faults_to_eject: u32,
    /// Between probes of an upstream that is out of service and has no check of its own.
    pub probe_interval: Duration,
    /// Patience of such a probe.
    pub probe_timeout: Duration,
    /// How long the share of an upstream that came back takes to grow to its whole.
    pub slow_start: Duration,
    /// Between connects that check upstreams in service which have no check of their own; zero: none.
    pub tcp_check_interval: Duration,
    /// Most requests and streams under way at one upstream; 0 means no limit.
    pub max_outstanding: usize,
    /// Most connections that carry requests at one upstream, upgrades and event streams not
    /// counted; 0 means no limit.
    pub max_connections: usize,
    /// Most requests that wait, for one circuit, for an upstream with room.
    pub queue_length: usize,
    /// How long one of them waits.
    pub queue_timeout: Duration,
    /// Retries that are granted for each request, on average.
    pub retry_ratio: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::Balanced,
            faults_to_eject: 3,
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_secs(1),
            slow_start: Duration::from_secs(10),
            tcp_check_interval: Duration::ZERO,
            // One worker has about 28,000 local ports towards one address.
            max_outstanding: 20_000,
            max_connections: 0,
            queue_length: 1_000,
            queue_timeout: Duration::from_secs(10),
            retry_ratio: 0.2,
        }
    }
}
