//! Samples that the tests of several rooms share.

use chrono::Utc;
use patchbay_common::circuit::{AppMode, FrontendMode, Protocol};
use patchbay_common::id::WorkerId;
use patchbay_common::worker::{Worker, WorkerStatus};
use serde_json::Value;

/// The sample values of the contract.
pub(crate) fn vectors() -> Value {
    serde_json::from_str(include_str!("../../common/tests/vectors.json")).unwrap()
}

/// A live worker with ten free ports.
pub(crate) fn sample_worker() -> Worker {
    Worker {
        id: WorkerId::random(),
        authority: "sample".into(),
        frontend_mode: FrontendMode::Port,
        protocol: Protocol::Http,
        hostname: "127.0.0.1".into(),
        tls_listen: false,
        tls_advertised: false,
        api_port: 10201,
        port_range: Some((100, 109)),
        wildcard_domain: None,
        wildcard_traffic_port: None,
        filtered_apps_only: false,
        traefik_last_used_marker_path: None,
        accepted_traffics: vec![AppMode::Interactive],
        created_at: Utc::now(),
        updated_at: Utc::now(),
        available_slots: 10,
        occupied_slots: 0,
        nodes: 1,
        status: WorkerStatus::Alive,
    }
}
