use std::sync::Arc;

use patchbay_common::circuit::Protocol;
use patchbay_common::id::SessionId;
use patchbay_common::route::Route;

use super::{Health, Prober, UpstreamSet};

fn route(port: u16, traffic_ratio: f64) -> Route {
    Route {
        route_id: None,
        session_id: SessionId::random(),
        session_name: None,
        kernel_host: Some("127.0.0.1".into()),
        kernel_port: port,
        protocol: Protocol::Http,
        traffic_ratio,
    }
}

#[test]
fn requests_are_shared_by_weight() {
    let set = UpstreamSet::new(&[route(1, 3.0), route(2, 1.0), route(3, 0.0)], None);
    let mut counts = [0u32; 4];
    for _ in 0..10_000 {
        let picked = set.pick(&[]).unwrap();
        let port: usize = picked
            .upstream
            .label
            .rsplit(':')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        counts[port] += 1;
    }
    assert!((7_300..=7_700).contains(&counts[1]), "{counts:?}");
    assert!((2_300..=2_700).contains(&counts[2]), "{counts:?}");
    assert_eq!(counts[3], 0);
}

#[test]
fn what_was_tried_or_is_down_is_passed_over() {
    let set = UpstreamSet::new(&[route(1, 1.0), route(2, 1.0)], None);
    let first = set.pick(&[]).unwrap().upstream;
    let second = set.pick(&[Arc::clone(&first)]).unwrap().upstream;
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(set.pick(&[first, second]).is_none());
    assert!(UpstreamSet::new(&[route(1, 0.0)], None).pick(&[]).is_none());
    assert!(UpstreamSet::new(&[], None).pick(&[]).is_none());
}

#[test]
fn three_faults_in_a_row_eject_and_success_forgives() {
    let health = Health::default();
    assert!(!health.failed());
    assert!(!health.failed());
    health.succeeded();
    assert!(!health.failed());
    assert!(!health.failed());
    assert!(health.is_up());
    assert!(health.failed());
    assert!(!health.is_up());
    assert!(!health.failed(), "it is ejected once");
}

#[test]
fn health_outlives_a_route_update() {
    let before = UpstreamSet::new(&[route(1, 1.0)], None);
    let upstream = before.pick(&[]).unwrap().upstream;
    for _ in 0..3 {
        upstream.health.failed();
    }
    let after = UpstreamSet::new(&[route(1, 0.5), route(2, 0.5)], Some(&before));
    assert_eq!(after.pick(&[]).unwrap().upstream.label, "127.0.0.1:2");
}

#[tokio::test]
async fn an_upstream_that_listens_late_is_found() {
    let reserved = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let set = UpstreamSet::new(&[route(address.port(), 1.0)], None);
    let upstream = set.pick(&[]).unwrap().upstream;
    let prober = Prober::default();
    for _ in 0..3 {
        prober.report_fault(&upstream);
    }
    assert!(set.pick(&[]).is_none());
    let _listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let found = async {
        while set.pick(&[]).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = prober.run() => {}
        () = found => {}
        () = tokio::time::sleep(std::time::Duration::from_secs(10)) => panic!("not found"),
    }
}
