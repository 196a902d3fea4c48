//! The gateway under a request's eyes: finding the route among 10, 1,000 and 10,000.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has to stop"
)]

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use patchbay_worker::gateway::router::{
    Conditions, HostPattern, PathPattern, Router, Rule, Segments,
};
use patchbay_worker::stage::{Head, HeaderLookup};

const SIZES: [usize; 3] = [10, 1_000, 10_000];

struct NoHeaders;

impl HeaderLookup for NoHeaders {
    fn get(&self, _: &str) -> Option<&[u8]> {
        None
    }

    fn each<'a>(&'a self, _: &str, _: &mut dyn FnMut(&'a [u8])) {}
}

/// Ten hosts; on each, exact paths, parameters and everything below.
fn rule(index: usize) -> Rule {
    let place = index / 10;
    let path = match index % 3 {
        0 => format!("/api/v1/service-{place}/items"),
        1 => format!("/api/v1/service-{place}/items/{{id}}/parts"),
        _ => format!("/web/section-{place}/*"),
    };
    let host = format!("shop-{}.example.com", index % 10);
    Rule {
        name: format!("route-{index}"),
        hosts: vec![HostPattern::parse(&host).unwrap()],
        path: PathPattern::parse(&path).unwrap(),
        conditions: Conditions::default(),
    }
}

/// A request that the rule of this index takes.
fn request(index: usize) -> (String, String) {
    let place = index / 10;
    let path = match index % 3 {
        0 => format!("/api/v1/service-{place}/items"),
        1 => format!("/api/v1/service-{place}/items/4711/parts"),
        _ => format!("/web/section-{place}/images/logo.svg"),
    };
    (format!("shop-{}.example.com", index % 10), path)
}

fn route(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gateway");
    let here: SocketAddr = ([127, 0, 0, 1], 80).into();
    for size in SIZES {
        let rules: Vec<Rule> = (0..size).map(rule).collect();
        let router = Router::build(&rules).unwrap();
        // In an order the processor cannot guess.
        let wanted: Vec<usize> = (0..size).map(|turn| (turn * 7_919) % size).collect();
        let requests: Vec<_> = wanted.iter().map(|index| request(*index)).collect();
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("route", size), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % size;
                let (host, path) = &requests[turn];
                let head = Head {
                    method: "GET",
                    target: path,
                    authority: None,
                    is_http11: true,
                    headers: &NoHeaders,
                    peer: here,
                    local: here,
                    tls: false,
                };
                let segments = Segments::of(path).unwrap();
                let found = router.route(black_box(host), &segments, &head);
                assert_eq!(found, Some(wanted[turn]));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, route);
criterion_main!(benches);
