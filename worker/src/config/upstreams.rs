//! `[upstreams]`: how the routes of circuits are chosen, watched and bounded.

use patchbay_common::config::{Loader, Mistake, Seconds, Strictness};
use serde::Deserialize;

use crate::upstream::{Policy, Settings};

/// The section as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct Upstreams {
    policy: Policy,
    faults_to_eject: u32,
    probe_interval: Seconds,
    probe_timeout: Seconds,
    slow_start: Seconds,
    tcp_check_interval: Seconds,
    max_outstanding: usize,
    queue_length: usize,
    queue_timeout: Seconds,
    retry_ratio: f64,
}

impl Default for Upstreams {
    fn default() -> Self {
        let rules = Settings::default();
        Self {
            policy: rules.policy,
            faults_to_eject: rules.faults_to_eject,
            probe_interval: Seconds(rules.probe_interval),
            probe_timeout: Seconds(rules.probe_timeout),
            slow_start: Seconds(rules.slow_start),
            tcp_check_interval: Seconds(rules.tcp_check_interval),
            max_outstanding: rules.max_outstanding,
            queue_length: rules.queue_length,
            queue_timeout: Seconds(rules.queue_timeout),
            retry_ratio: rules.retry_ratio,
        }
    }
}

/// The rules the file asks for; mistakes are noted.
pub(super) fn read(loader: &mut Loader) -> Settings {
    let section: Upstreams = loader.section("upstreams", Strictness::Ours);
    section.settings(loader)
}

impl Upstreams {
    /// The rules it asks for; mistakes are noted.
    fn settings(&self, loader: &mut Loader) -> Settings {
        let mut positive = |key: &str, is: bool, usual: &str| {
            if !is {
                let fix = format!("must be more than 0: {usual} is usual");
                loader.mistake(Mistake::new(format!("upstreams.{key}"), fix));
            }
        };
        positive("faults_to_eject", self.faults_to_eject > 0, "3");
        positive("probe_interval", !self.probe_interval.0.is_zero(), "1");
        positive("probe_timeout", !self.probe_timeout.0.is_zero(), "1");
        if !(0.0..=1.0).contains(&self.retry_ratio) {
            loader.mistake(Mistake::new(
                "upstreams.retry_ratio",
                "must be between 0 and 1: 0.2 lets every fifth request be tried again",
            ));
        }
        Settings {
            policy: self.policy,
            faults_to_eject: self.faults_to_eject,
            probe_interval: self.probe_interval.0,
            probe_timeout: self.probe_timeout.0,
            slow_start: self.slow_start.0,
            tcp_check_interval: self.tcp_check_interval.0,
            max_outstanding: self.max_outstanding,
            max_connections: 0,
            queue_length: self.queue_length,
            queue_timeout: self.queue_timeout.0,
            retry_ratio: self.retry_ratio,
        }
    }
}
