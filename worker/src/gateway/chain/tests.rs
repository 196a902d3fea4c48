use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Addresses, Chain, Ledger, LimitKey, Passage, RateLimit, Stage, Step, Taken, Want};
use crate::gateway::refusal::GatewayRefusal;
use crate::gateway::trial::{Headers, client, head};

fn limit(key: LimitKey, burst: u32) -> Arc<RateLimit> {
    let burst = NonZeroU32::new(burst).unwrap();
    Arc::new(RateLimit::new("limit", key, Duration::from_secs(3_600), burst).unwrap())
}

fn run(chain: &Chain, address: &str, headers: &Headers, route: &str) -> (Step, Passage) {
    let mut passage = Passage::default();
    let head = head("GET", "/x", headers);
    let step = chain.run(&head, &client(address), route, &mut passage);
    (step, passage)
}

fn passes(chain: &Chain, address: &str, headers: &Headers, route: &str) -> bool {
    matches!(run(chain, address, headers, route).0, Step::Carry)
}

#[test]
fn a_panic_is_an_error_of_one_request() {
    let chain = Chain::new(vec![Stage::Panic]);
    let none = Headers::default();
    for _ in 0..2 {
        let (step, _) = run(&chain, "127.0.0.1", &none, "r");
        assert!(matches!(step, Step::Refuse(GatewayRefusal::Panic)));
    }
}

#[test]
fn the_first_stage_that_refuses_decides() {
    let limit = limit(LimitKey::Route, 1);
    let deny = Addresses {
        allow: Vec::new(),
        deny: vec!["10.0.0.0/8".parse().unwrap()],
    };
    let chain = Chain::new(vec![
        Stage::Addresses(Arc::new(deny)),
        Stage::RateLimit(limit),
    ]);
    let none = Headers::default();
    for _ in 0..3 {
        let (step, _) = run(&chain, "10.1.2.3", &none, "r");
        assert!(matches!(step, Step::Refuse(GatewayRefusal::Address)));
        let (step, _) = run(&chain, "::ffff:10.1.2.3", &none, "r");
        assert!(matches!(step, Step::Refuse(GatewayRefusal::Address)));
    }
    assert!(passes(&chain, "11.1.2.3", &none, "r"), "no token was taken");
    assert!(!passes(&chain, "11.1.2.3", &none, "r"));
}

#[test]
fn buckets_are_told_apart_by_route_and_key() {
    let chain = Chain::new(vec![Stage::RateLimit(limit(LimitKey::Address, 1))]);
    let none = Headers::default();
    assert!(passes(&chain, "10.0.0.1", &none, "one"));
    assert!(!passes(&chain, "10.0.0.1", &none, "one"));
    assert!(passes(&chain, "10.0.0.2", &none, "one"));
    assert!(passes(&chain, "10.0.0.1", &none, "two"));
    assert!(passes(&chain, "2001:db8::1", &none, "one"));
    assert!(!passes(&chain, "2001:db8::ffff:1", &none, "one"), "one /64");
    assert!(passes(&chain, "2001:db8:0:1::1", &none, "one"));

    let chain = Chain::new(vec![Stage::RateLimit(limit(
        LimitKey::Header("x-key".into()),
        1,
    ))]);
    assert!(passes(
        &chain,
        "10.0.0.1",
        &Headers::of(&[("x-key", "a")]),
        "r"
    ));
    assert!(passes(
        &chain,
        "10.0.0.1",
        &Headers::of(&[("x-key", "")]),
        "r"
    ));
    assert!(!passes(
        &chain,
        "10.0.0.9",
        &Headers::of(&[("x-key", "")]),
        "r"
    ));
    assert!(passes(&chain, "10.0.0.1", &none, "r"));
    assert!(!passes(&chain, "10.0.0.9", &none, "r"), "no key is one key");
}

#[test]
fn full_buckets_are_dropped() {
    let burst = NonZeroU32::new(1).unwrap();
    let period = Duration::from_millis(20);
    let limit = RateLimit::new("l", LimitKey::Header("k".into()), period, burst).unwrap();
    let chain = Chain::new(vec![Stage::RateLimit(Arc::new(limit))]);
    let Some(Stage::RateLimit(limit)) = chain.stages().first() else {
        panic!("another stage");
    };
    for key in 0..10_000 {
        let headers = Headers::of(&[("k", &key.to_string())]);
        assert!(passes(&chain, "10.0.0.1", &headers, "r"));
    }
    assert_eq!(limit.buckets(), 10_000);
    let began = std::time::Instant::now();
    while limit.buckets() > 0 {
        limit.sweep();
        assert!(began.elapsed() < Duration::from_secs(10), "not dropped");
        std::thread::yield_now();
    }
}

/// Grants everything.
#[derive(Debug)]
struct Generous;

impl Ledger for Generous {
    fn open(&self) {}

    fn is_up(&self) -> bool {
        true
    }

    fn take(&self, want: Want) -> BoxFuture<'static, Option<Taken>> {
        let taken = Taken {
            tokens: want.tokens,
            left: want.burst - want.tokens,
            wait: Duration::ZERO,
        };
        Box::pin(std::future::ready(Some(taken)))
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

/// `cargo test -p patchbay-worker --release a_million -- --nocapture` tells what they take.
#[tokio::test]
async fn a_million_keys_fit_and_go_when_they_are_idle() {
    const KEYS: usize = 1_000_000;
    for shared in [false, true] {
        let burst = NonZeroU32::new(1).unwrap();
        let period = Duration::from_millis(20);
        let key = LimitKey::Header("k".into());
        let mut limit = RateLimit::new("l", key, period, burst).unwrap();
        if shared {
            limit = limit.shared(Arc::new(Generous));
        }
        let limit = Arc::new(limit);
        let chain = Chain::new(vec![Stage::RateLimit(Arc::clone(&limit))]);
        let before = resident();
        for key in 0..KEYS {
            let headers = Headers::of(&[("k", &key.to_string())]);
            let (step, mut passage) = run(&chain, "10.0.0.1", &headers, "r");
            let step = match step {
                Step::Wait(wait) => {
                    wait.resolve(&mut passage).await;
                    let head = head("GET", "/x", &headers);
                    chain.run(&head, &client("10.0.0.1"), "r", &mut passage)
                }
                step => step,
            };
            assert!(matches!(step, Step::Carry), "key {key}: {step:?}");
        }
        let grown = resident().saturating_sub(before) >> 20;
        println!("{} keys, shared: {shared}: {grown} MB", limit.buckets());
        assert!(limit.buckets() > KEYS * 99 / 100, "{}", limit.buckets());
        assert!(grown < 200, "{grown} MB");
        let began = std::time::Instant::now();
        while limit.buckets() > 0 {
            limit.sweep();
            assert!(began.elapsed() < Duration::from_secs(20), "not dropped");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
