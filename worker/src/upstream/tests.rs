use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use patchbay_common::circuit::Protocol;
use patchbay_common::health_check::HealthCheck;
use patchbay_common::id::SessionId;
use patchbay_common::route::Route;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{
    Ask, Backend, Check, Fault, Health, Picked, Policy, Prober, Settings, Unavailable, UpstreamSet,
};

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

fn set(routes: &[Route], settings: Settings) -> UpstreamSet {
    after(routes, settings, None)
}

fn after(routes: &[Route], settings: Settings, previous: Option<&UpstreamSet>) -> UpstreamSet {
    let backends: Vec<Backend> = routes.iter().map(Backend::from).collect();
    UpstreamSet::new(&backends, None, &Arc::new(settings), previous)
}

fn by(policy: Policy) -> Settings {
    Settings {
        policy,
        ..Settings::default()
    }
}

fn port(picked: &Picked) -> u16 {
    let label = &picked.upstream.label;
    label.rsplit(':').next().unwrap().parse().unwrap()
}

fn shares(set: &UpstreamSet, picks: usize) -> HashMap<u16, usize> {
    let mut shares = HashMap::new();
    for _ in 0..picks {
        *shares.entry(port(&set.pick(&[]).unwrap())).or_default() += 1;
    }
    shares
}

fn eject(health: &Health) {
    for _ in 0..3 {
        health.failed(Fault::Connect, 3);
    }
}

#[test]
fn requests_are_shared_by_weight() {
    let routes = [route(1, 3.0), route(2, 1.0), route(3, 0.0)];
    for policy in [Policy::Balanced, Policy::Weighted] {
        let shares = shares(&set(&routes, by(policy)), 10_000);
        assert!((7_300..=7_700).contains(&shares[&1]), "{shares:?}");
        assert!((2_300..=2_700).contains(&shares[&2]), "{shares:?}");
        assert!(!shares.contains_key(&3));
    }
}

#[test]
fn equals_are_chosen_by_what_they_have_to_do() {
    let set = set(
        &[route(1, 1.0), route(2, 1.0), route(3, 1.0)],
        by(Policy::Balanced),
    );
    let mut held: Vec<Picked> = Vec::new();
    for _ in 0..300 {
        held.push(set.pick(&[]).unwrap());
    }
    let mut counts = HashMap::new();
    for picked in &held {
        *counts.entry(port(picked)).or_insert(0usize) += 1;
    }
    assert!(
        counts.values().all(|count| (90..=110).contains(count)),
        "{counts:?}"
    );
    // One that is busy is passed over until the others are as busy.
    held.retain(|picked| port(picked) == 1);
    let shares = shares(&set, 300);
    assert!(
        shares.get(&1).copied().unwrap_or_default() <= 5,
        "{shares:?}"
    );
    drop(held);
    assert!(set.all().all(|upstream| upstream.outstanding() == 0));
}

#[test]
fn round_robin_takes_turns() {
    let set = set(
        &[route(1, 1.0), route(2, 5.0), route(3, 1.0)],
        by(Policy::RoundRobin),
    );
    let order: Vec<u16> = (0..6).map(|_| port(&set.pick(&[]).unwrap())).collect();
    assert_eq!(order, [1, 2, 3, 1, 2, 3]);
}

#[tokio::test]
async fn the_same_key_finds_the_same_upstream() {
    let routes: Vec<Route> = (1..=5).map(|port| route(port, 1.0)).collect();
    let set = set(&routes, by(Policy::ConsistentHash));
    let of = async |set: &UpstreamSet, key: u32| {
        let key = key.to_be_bytes();
        let ask = Ask {
            tried: &[],
            key: &key,
            prefer: None,
        };
        port(&set.acquire(&ask).await.unwrap())
    };
    let mut before = Vec::new();
    for key in 0..1_000 {
        before.push(of(&set, key).await);
        assert_eq!(of(&set, key).await, before[key as usize]);
    }
    for port in 1..=5 {
        let count = before.iter().filter(|one| **one == port).count();
        assert!((100..=300).contains(&count), "{port}: {count}");
    }
    // Those of the one that is gone move; the others stay.
    eject(&set.all().next().unwrap().health);
    for key in 0..1_000 {
        let now = of(&set, key).await;
        let then = before[key as usize];
        assert!(if then == 1 { now != 1 } else { now == then });
    }
}

#[test]
fn what_was_tried_or_is_down_is_passed_over() {
    for policy in [
        Policy::Weighted,
        Policy::LeastOutstanding,
        Policy::RoundRobin,
        Policy::ConsistentHash,
    ] {
        let set = set(&[route(1, 1.0), route(2, 1.0)], by(policy));
        let first = Arc::clone(&set.pick(&[]).unwrap().upstream);
        let second = Arc::clone(&set.pick(&[Arc::clone(&first)]).unwrap().upstream);
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(set.pick(&[first, second]).is_none());
    }
    assert!(UpstreamSet::of_routes(&[route(1, 0.0)]).pick(&[]).is_none());
    assert!(UpstreamSet::of_routes(&[]).pick(&[]).is_none());
}

#[test]
fn three_faults_in_a_row_eject_and_success_forgives() {
    let health = Health::default();
    assert!(!health.failed(Fault::Connect, 3));
    assert!(!health.failed(Fault::Connect, 3));
    health.connected();
    assert!(!health.failed(Fault::Connect, 3));
    assert!(!health.failed(Fault::ConnectTimeout, 3));
    assert!(health.is_up());
    assert!(health.failed(Fault::Connect, 3));
    assert!(!health.is_up());
    assert!(
        !health.failed(Fault::Connect, 3),
        "it is ejected once, and counted once"
    );
    assert_eq!(health.last_fault(), Some(Fault::Connect));
}

#[test]
fn one_that_takes_connections_and_never_answers_is_ejected_too() {
    let health = Health::default();
    for last in [false, false, true] {
        health.connected();
        assert_eq!(health.failed(Fault::FirstByteTimeout, 3), last);
    }
    health.connected();
    assert!(!health.is_up(), "a connection is no answer");
    health.answered();
    assert!(health.is_up());
}

#[test]
fn what_a_check_found_only_a_check_forgives() {
    let health = Health::default();
    assert!(health.failed(Fault::Check("status 500 instead of 200".into()), 1));
    health.connected();
    health.answered();
    assert!(!health.is_up());
    assert!(health.passed());
    assert!(health.is_up());
}

#[test]
fn health_outlives_a_route_update() {
    let before = set(&[route(1, 1.0)], Settings::default());
    let held = before.pick(&[]).unwrap();
    eject(&held.upstream.health);
    let after = after(
        &[route(1, 0.5), route(2, 0.5)],
        Settings::default(),
        Some(&before),
    );
    assert_eq!(port(&after.pick(&[]).unwrap()), 2);
    let states = after.states();
    assert_eq!(states[0].address, "127.0.0.1:1");
    assert!(!states[0].healthy && states[1].healthy);
    assert_eq!(states[0].last_fault, Some(Fault::Connect));
    assert_eq!(states[0].outstanding, 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_came_back_gets_its_share_little_by_little() {
    let set = set(&[route(1, 1.0), route(2, 1.0)], by(Policy::Weighted));
    let health = &set.all().next().unwrap().health;
    eject(health);
    assert!(health.passed());
    tokio::time::advance(Duration::from_secs(2)).await;
    let early = shares(&set, 1_000)[&1];
    assert!((120..=220).contains(&early), "{early} of 1000");
    tokio::time::advance(Duration::from_secs(8)).await;
    let whole = shares(&set, 1_000)[&1];
    assert!((450..=550).contains(&whole), "{whole} of 1000");
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_room_waits_in_line_so_many_and_so_long() {
    let settings = Settings {
        max_outstanding: 1,
        queue_length: 1,
        ..Settings::default()
    };
    let set = Arc::new(set(&[route(1, 1.0)], settings));
    let held = set.pick(&[]).unwrap();
    assert!(set.pick(&[]).is_none());
    let waiting = tokio::spawn({
        let set = Arc::clone(&set);
        async move { set.acquire(&Ask::default()).await.map(|one| port(&one)) }
    });
    tokio::task::yield_now().await;
    assert_eq!(set.waiting(), 1);
    let refused = set.acquire(&Ask::default()).await;
    assert_eq!(refused.unwrap_err(), Unavailable::QueueFull);
    drop(held);
    assert_eq!(waiting.await.unwrap(), Ok(1));

    let _held = set.pick(&[]).unwrap();
    let started = tokio::time::Instant::now();
    let refused = set.acquire(&Ask::default()).await;
    assert_eq!(refused.unwrap_err(), Unavailable::QueueTimeout);
    assert_eq!(started.elapsed().as_secs(), 10);
    assert_eq!(set.waiting(), 0);
}

/// Runs the prober until the condition holds.
async fn until(prober: &Arc<Prober>, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = Arc::clone(prober).run() => unreachable!("the prober does not end"),
        held = tokio::time::timeout(Duration::from_secs(20), holds) => held.unwrap(),
    }
}

#[tokio::test]
async fn an_upstream_that_listens_late_is_found() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let set = set(&[route(address.port(), 1.0)], Settings::default());
    let upstream = Arc::clone(set.all().next().unwrap());
    let prober = Arc::new(Prober::default());
    let mut changes = prober.changes();
    for _ in 0..3 {
        prober.report(&upstream, Fault::Connect);
    }
    assert!(set.pick(&[]).is_none());
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let _listener = TcpListener::bind(address).await.unwrap();
    until(&prober, || set.pick(&[]).is_some()).await;
    assert!(changes.has_changed().unwrap());
}

/// Answers each connection with the latest of the statuses it is sent.
async fn app(status: tokio::sync::watch::Receiver<u16>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap_or_default();
            let status = if head[..read].starts_with(b"GET /ready?deep=1 HTTP/1.1\r\n") {
                *status.borrow()
            } else {
                404
            };
            let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn an_endpoints_check_takes_a_route_out_and_brings_it_back() {
    let (say, status) = tokio::sync::watch::channel(200);
    let address = app(status).await;
    let wish = HealthCheck {
        enable: true,
        interval: 0.1,
        path: "/ready?deep=1".into(),
        max_retries: 2,
        max_wait_time: 5.0,
        expected_status_code: 200,
        initial_delay: 0.0,
    };
    let backends = [Backend::from(&route(address.port(), 1.0))];
    let set = UpstreamSet::new(&backends, Check::of(&wish), &Arc::default(), None);
    let prober = Arc::new(Prober::default());
    prober.watch(&set);
    until(&prober, || {
        set.all()
            .all(|one| one.on_agenda.load(std::sync::atomic::Ordering::Relaxed))
    })
    .await;
    say.send(500).unwrap();
    until(&prober, || set.pick(&[]).is_none()).await;
    let fault = set.states()[0].last_fault.clone().unwrap();
    assert_eq!(
        fault.to_string(),
        "its health check failed: status 500 instead of 200"
    );
    say.send(200).unwrap();
    until(&prober, || set.pick(&[]).is_some()).await;
    assert_eq!(
        Check::of(&HealthCheck {
            enable: false,
            ..wish
        }),
        None
    );
}
