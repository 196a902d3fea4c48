use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{Addresses, Chain, LimitKey, Passage, RateLimit, Stage, Step};
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
