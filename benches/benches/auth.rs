//! What a request's credential costs: a permit cookie, an endpoint token, and being refused.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has to stop"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use patchbay_benches::circuit;
use patchbay_common::circuit::{AppMode, Slot};
use patchbay_common::cli::CommonArgs;
use patchbay_worker::config::Config;
use patchbay_worker::stage::{Head, HeaderLookup, Stages};
use patchbay_worker::table::{LiveCircuit, Table};
use serde_json::json;

const PORT: u16 = 10_205;
const NOW: u64 = 1_800_000_000;

struct Headers(Vec<(&'static str, String)>);

impl HeaderLookup for Headers {
    fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_bytes())
    }

    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for (known, value) in &self.0 {
            if *known == name {
                visit(value.as_bytes());
            }
        }
    }
}

fn head(headers: &Headers) -> Head<'_> {
    Head {
        method: "GET",
        target: "/lab?reset",
        authority: None,
        is_http11: true,
        headers,
        peer: ([192, 0, 2, 7], 51_234).into(),
        local: ([192, 0, 2, 1], PORT).into(),
        tls: false,
    }
}

fn config() -> Config {
    let settings = [
        ("PROXY_WORKER__AUTHORITY", "worker-1"),
        (
            "PROXY_WORKER__COORDINATOR_ENDPOINT",
            "http://127.0.0.1:6030",
        ),
        ("PROXY_WORKER__FRONTEND_MODE", "port"),
        ("PROXY_WORKER__PROTOCOL", "http"),
        (
            "PROXY_WORKER__ACCEPTED_TRAFFICS",
            "[\"interactive\", \"inference\"]",
        ),
        (
            "PROXY_WORKER__PORT_PROXY__BIND_PORT_RANGE",
            "[10205, 10300]",
        ),
        ("SECRETS__API_SECRET", "an api secret"),
        ("SECRETS__JWT_SECRET", "a jwt secret"),
        ("PERMIT_HASH__SECRET", "a permit secret"),
        ("LOGGING__LEVEL", "off"),
    ];
    let environment = settings.map(|(key, value)| (format!("PATCHBAY_{key}"), value.to_owned()));
    Config::from_file(None, environment, &CommonArgs::default())
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

struct Rig {
    config: Config,
    stages: Stages,
    table: Arc<Table>,
}

impl Rig {
    fn new(mode: AppMode) -> Self {
        let (config, table) = (config(), Arc::new(Table::new()));
        table.replace(vec![circuit(&Slot::Port(PORT), mode).unwrap()]);
        let stages = Stages::new(&config, Arc::clone(&table));
        Self {
            config,
            stages,
            table,
        }
    }

    fn circuit(&self) -> Arc<LiveCircuit> {
        self.table.at_port(PORT).unwrap()
    }

    /// The stages from the head to the verdict.
    fn passes(&self, headers: &Headers) -> bool {
        let head = head(headers);
        let client = self.stages.client(&head);
        let circuit = self.stages.locate(&head, &client).unwrap();
        self.stages.admit(&head, &client, &circuit, NOW).is_ok()
    }
}

fn permit(criterion: &mut Criterion) {
    let rig = Rig::new(AppMode::Interactive);
    let circuit = rig.circuit();
    let key = &rig.config.permits;
    let permit = key.issue(circuit.circuit.id, circuit.circuit.user_id, NOW + 60);
    let cookies = |value: &str| {
        let cookie = format!(
            "_xsrf=2|7586b241; {}={value}; theme=dark",
            circuit.permit_cookie
        );
        Headers(vec![("host", "192.0.2.1:10205".into()), ("cookie", cookie)])
    };
    let (good, forged) = (cookies(&permit), cookies(&permit.replace("v1.", "v1.f")));
    assert!(rig.passes(&good) && !rig.passes(&forged));
    criterion.bench_function("auth/permit", |bencher| {
        bencher.iter(|| black_box(rig.passes(black_box(&good))));
    });
    criterion.bench_function("auth/permit_forged", |bencher| {
        bencher.iter(|| black_box(rig.passes(black_box(&forged))));
    });
    let stranger = Headers(vec![("host", "192.0.2.1:10205".into())]);
    criterion.bench_function("auth/permit_missing", |bencher| {
        bencher.iter(|| black_box(rig.passes(black_box(&stranger))));
    });
}

fn bearer(criterion: &mut Criterion) {
    let rig = Rig::new(AppMode::Inference);
    let claims = json!({"id": rig.circuit().id_text, "exp": 4_000_000_000_u64});
    let token = rig.config.tokens.sign(&claims).unwrap();
    let headers = Headers(vec![("authorization", format!("Bearer {token}"))]);
    assert!(rig.passes(&headers));
    criterion.bench_function("auth/bearer", |bencher| {
        bencher.iter(|| black_box(rig.passes(black_box(&headers))));
    });
}

criterion_group!(benches, permit, bearer);
criterion_main!(benches);
