use std::sync::Arc;

use patchbay_common::circuit::Circuit;
use patchbay_common::event::Change;
use patchbay_common::id::{CircuitId, SessionId, UserId};
use patchbay_common::permit::{Digest, PermitKey};
use patchbay_common::request_id::RequestId;
use patchbay_common::token::TokenKey;
use serde_json::json;

use super::{Client, Credential, Head, HeaderLookup, HeaderSink, Stages, Verdict};
use crate::config::Cors;
use crate::error::Refusal;
use crate::table::Table;

const NOW: u64 = 1_000;

struct Pairs(Vec<(&'static str, String)>);

impl HeaderLookup for Pairs {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.as_bytes())
    }

    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for (_, value) in self.0.iter().filter(|(key, _)| *key == name) {
            visit(value.as_bytes());
        }
    }
}

/// Headers that were there, and what was written since.
struct Written(Pairs, Vec<(String, Option<String>)>);

impl HeaderLookup for Written {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name)
    }

    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        self.0.each(name, visit);
    }
}

impl HeaderSink for Written {
    fn set(&mut self, name: &'static str, value: &str) {
        self.1.push((name.into(), Some(value.into())));
    }

    fn write(&mut self, name: &http::HeaderName, value: &http::HeaderValue) {
        let value = value.to_str().unwrap().to_owned();
        self.1.push((name.as_str().to_owned(), Some(value)));
    }

    fn add(&mut self, name: &http::HeaderName, value: &http::HeaderValue) {
        self.write(name, value);
    }

    fn remove(&mut self, name: &str) {
        self.1.push((name.into(), None));
    }

    fn remove_alike(&mut self, name: &http::HeaderName) {
        self.remove(name.as_str());
    }
}

impl Written {
    /// What became of a header: untouched, removed, or set.
    fn of(&self, name: &str) -> Option<Option<&str>> {
        self.1
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_deref())
    }
}

fn head<'a>(method: &'a str, headers: &'a Pairs) -> Head<'a> {
    Head {
        method,
        target: "/a/b?token=x",
        authority: None,
        is_http11: true,
        headers,
        peer: "10.0.0.9:4000".parse().unwrap(),
        local: "10.0.0.1:10205".parse().unwrap(),
        tls: false,
    }
}

fn circuit(app_mode: &str, extra: serde_json::Value) -> Circuit {
    let mut circuit = json!({
        "id": CircuitId::random(), "app": "rstudio", "protocol": "http",
        "worker": CircuitId::random(), "app_mode": app_mode, "frontend_mode": "port",
        "port": 10205, "user_id": UserId::random(),
        "route_info": [{"session_id": SessionId::random(), "kernel_port": 1}],
        "created_at": "2026-08-23T01:02:03Z", "updated_at": "2026-08-23T01:02:03Z",
    });
    for (key, value) in extra.as_object().unwrap() {
        circuit[key] = value.clone();
    }
    serde_json::from_value(circuit).unwrap()
}

fn stages(circuit: &Circuit, trusted: &[&str], legacy: bool) -> Stages {
    let table = Arc::new(Table::new());
    table.apply(&Change::Created(vec![circuit.clone()]));
    Stages {
        table,
        tokens: TokenKey::new("jwt"),
        permits: permits(),
        legacy_permits: legacy,
        trusted_proxies: trusted.iter().map(|net| net.parse().unwrap()).collect(),
        domain: None,
        port_offset: 0,
        uses_tls: false,
        cors: Cors::default(),
    }
}

fn permits() -> PermitKey {
    PermitKey::new("permit", Digest::Sha256)
}

fn judge(stages: &Stages, head: &Head<'_>) -> Result<Verdict, Refusal> {
    let client = stages.client(head);
    let circuit = stages.locate(head, &client)?;
    stages.admit(head, &client, &circuit, NOW)
}

fn refusal(stages: &Stages, headers: &Pairs) -> Refusal {
    judge(stages, &head("GET", headers)).unwrap_err()
}

fn credential(stages: &Stages, headers: &Pairs) -> Credential {
    match judge(stages, &head("GET", headers)) {
        Ok(Verdict::Carry(right)) => right.credential,
        other => panic!("not carried: {other:?}"),
    }
}

fn cookie(text: String) -> Pairs {
    Pairs(vec![("host", "h:10205".into()), ("cookie", text)])
}

#[test]
fn a_permit_opens_its_own_circuit_only() {
    let circuit = circuit("interactive", json!({}));
    let stages = stages(&circuit, &[], false);
    let name = patchbay_common::permit::cookie_name(circuit.id);
    let permit = permits().issue(circuit.id, circuit.user_id, NOW + 1);
    let good = cookie(format!("a=1; {name}=\"{permit}\"; b=2"));
    assert_eq!(credential(&stages, &good), Credential::Permit);

    let none = cookie("a=1".into());
    assert_eq!(refusal(&stages, &none), Refusal::PermitMissing);
    let old = permits().issue(circuit.id, circuit.user_id, NOW);
    assert_eq!(
        refusal(&stages, &cookie(format!("{name}={old}"))),
        Refusal::PermitInvalid
    );
    let other = permits().issue(CircuitId::random(), circuit.user_id, NOW + 1);
    assert_eq!(
        refusal(&stages, &cookie(format!("{name}={other}"))),
        Refusal::PermitInvalid
    );
    // Of several of one name, one good one is enough: browsers send the older path first.
    let both = cookie(format!("{name}={other}; {name}={permit}"));
    assert_eq!(credential(&stages, &both), Credential::Permit);
}

#[test]
fn the_legacy_permit_counts_only_where_it_is_switched_on() {
    let circuit = circuit("interactive", json!({}));
    let legacy = permits().legacy(circuit.user_id.unwrap());
    let given = cookie(format!("appproxy_permit=\"{legacy}\""));
    assert_eq!(
        refusal(&stages(&circuit, &[], false), &given),
        Refusal::PermitMissing
    );
    let on = stages(&circuit, &[], true);
    assert_eq!(credential(&on, &given), Credential::LegacyPermit);
    assert_eq!(
        refusal(&on, &cookie("appproxy_permit=x".into())),
        Refusal::PermitInvalid
    );
}

#[test]
fn an_endpoint_asks_for_its_token() {
    let circuit = circuit("inference", json!({}));
    let stages = stages(&circuit, &[], false);
    let with = |value: String| Pairs(vec![("authorization", value)]);
    let sign = |claims: serde_json::Value| TokenKey::new("jwt").sign(&claims).unwrap();
    let good = sign(json!({"id": circuit.id, "exp": 4_000_000_000u64}));
    assert_eq!(
        credential(&stages, &with(format!("Bearer {good}"))),
        Credential::Bearer
    );
    assert_eq!(
        credential(&stages, &with(format!("BackendAI {good}"))),
        Credential::Bearer
    );

    assert_eq!(refusal(&stages, &Pairs(vec![])), Refusal::BearerMissing);
    assert_eq!(
        refusal(&stages, &with(format!("bearer {good}"))),
        Refusal::BearerScheme("bearer".into())
    );
    let other = sign(json!({"id": CircuitId::random()}));
    assert_eq!(
        refusal(&stages, &with(format!("Bearer {other}"))),
        Refusal::BearerMismatch
    );
    let late = sign(json!({"id": circuit.id, "exp": 1}));
    let text = refusal(&stages, &with(format!("Bearer {late}"))).to_string();
    assert_eq!(
        text,
        "E20008: Invalid authorization token (Signature has expired)"
    );
    let text = refusal(&stages, &with("Bearer x".into())).to_string();
    assert_eq!(
        text,
        "E20008: Invalid authorization token (Not enough segments)"
    );
}

#[test]
fn only_a_real_preflight_passes_without_a_credential_and_not_to_the_app() {
    let circuit = circuit("interactive", json!({}));
    let stages = stages(&circuit, &[], false);
    let bare = Pairs(vec![("origin", "https://ui".into())]);
    assert!(judge(&stages, &head("OPTIONS", &bare)).is_err());
    let real = Pairs(vec![
        ("origin", "https://ui".into()),
        ("access-control-request-method", "PUT".into()),
    ]);
    match judge(&stages, &head("OPTIONS", &real)) {
        Ok(Verdict::Preflight(preflight)) => assert_eq!(preflight.methods, "PUT"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn addresses_are_checked_for_public_circuits_too() {
    let circuit = circuit(
        "interactive",
        json!({"open_to_public": true, "allowed_client_ips": "192.0.2.0/24"}),
    );
    let open = stages(&circuit, &["10.0.0.0/8"], false);
    assert_eq!(refusal(&open, &Pairs(vec![])), Refusal::ClientAddress);
    let from = |chain: &str| Pairs(vec![("x-forwarded-for", chain.to_owned())]);
    assert_eq!(credential(&open, &from("192.0.2.7")), Credential::Public);
    assert_eq!(
        credential(&open, &from("6.6.6.6, 192.0.2.7, 10.1.1.1")),
        Credential::Public
    );
    // What stands left of the first untrusted address is hearsay.
    assert_eq!(
        refusal(&open, &from("192.0.2.7, 6.6.6.6")),
        Refusal::ClientAddress
    );
    // A peer that is not trusted speaks for itself alone.
    let strict = stages(&circuit, &["172.16.0.0/12"], false);
    assert_eq!(refusal(&strict, &from("192.0.2.7")), Refusal::ClientAddress);
}

fn inject(stages: &Stages, headers: &Pairs, client: &Client) -> Written {
    let mut written = Written(Pairs(vec![]), vec![]);
    let head = head("GET", headers);
    let circuit = stages.locate(&head, client).unwrap();
    let id = RequestId::parse("rid").unwrap();
    stages.inject(&head, client, &circuit, &id, &mut written);
    written
}

#[test]
fn the_app_learns_the_way_and_none_of_our_credentials() {
    let circuit = circuit("interactive", json!({}));
    let stages = stages(&circuit, &[], false);
    let headers = Pairs(vec![
        ("host", "apps.example:10205".into()),
        ("x-forwarded-for", "6.6.6.6".into()),
        ("x-forwarded-host", "evil".into()),
        ("cookie", "app=1; appproxy_permit=old".into()),
        ("cookie", "appproxy_permit_abc=new; theme=dark".into()),
    ]);
    let client = stages.client(&head("GET", &headers));
    let written = inject(&stages, &headers, &client);
    assert_eq!(written.of("x-backend-request-id"), Some(Some("rid")));
    assert_eq!(written.of("x-forwarded-for"), Some(Some("10.0.0.9")));
    assert_eq!(
        written.of("x-forwarded-host"),
        Some(Some("apps.example:10205"))
    );
    assert_eq!(written.of("x-forwarded-port"), Some(Some("10205")));
    assert_eq!(written.of("x-forwarded-proto"), Some(Some("http")));
    let forwarded = "for=10.0.0.9;host=\"apps.example:10205\";proto=http";
    assert_eq!(written.of("forwarded"), Some(Some(forwarded)));
    assert_eq!(written.of("cookie"), Some(Some("app=1; theme=dark")));
    let rstudio = "http://apps.example:10205/a/b";
    assert_eq!(written.of("x-rstudio-request"), Some(Some(rstudio)));
    assert_eq!(written.of("authorization"), None, "the app's own stays");
}

#[test]
fn a_trusted_chain_is_continued() {
    let circuit = circuit("inference", json!({"app": "llm"}));
    let stages = stages(&circuit, &["10.0.0.0/8"], false);
    let headers = Pairs(vec![
        ("host", "[2001:db8::1]:10205".into()),
        ("x-forwarded-for", "2001:db8::7".into()),
        ("x-forwarded-proto", "https".into()),
        ("authorization", "Bearer t".into()),
    ]);
    let client = stages.client(&head("GET", &headers));
    assert_eq!(client.address.ip().to_string(), "2001:db8::7");
    let written = inject(&stages, &headers, &client);
    assert_eq!(
        written.of("x-forwarded-for"),
        Some(Some("2001:db8::7, 10.0.0.9"))
    );
    assert_eq!(written.of("x-forwarded-proto"), Some(Some("https")));
    assert_eq!(written.of("x-forwarded-port"), Some(Some("10205")));
    assert_eq!(written.of("authorization"), Some(None));
    assert_eq!(written.of("x-rstudio-request"), None);
}

#[test]
fn doubtful_heads_are_refused() {
    let stages = stages(&circuit("interactive", json!({})), &[], false);
    let inspect = |pairs: Vec<(&'static str, &str)>, raw: &[u8]| {
        let pairs = Pairs(pairs.into_iter().map(|(k, v)| (k, v.to_owned())).collect());
        stages.inspect(&head("GET", &pairs), Some(raw)).is_err()
    };
    let good: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(!inspect(vec![("host", "a")], good));
    assert!(inspect(vec![], good));
    assert!(inspect(vec![("host", "a"), ("host", "a")], good));
    assert!(inspect(
        vec![
            ("host", "a"),
            ("content-length", "1"),
            ("content-length", "1")
        ],
        good
    ));
    assert!(inspect(
        vec![
            ("host", "a"),
            ("content-length", "1"),
            ("transfer-encoding", "chunked")
        ],
        good
    ));
    assert!(inspect(
        vec![("host", "a")],
        b"GET / HTTP/1.1\nHost: a\r\n\r\n"
    ));
    assert!(inspect(
        vec![("host", "a")],
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"
    ));
}

#[test]
fn subdomains_are_found_by_suffix_and_whatever_case() {
    let circuit = circuit(
        "interactive",
        json!({"frontend_mode": "wildcard", "port": null, "subdomain": "Lab", "open_to_public": true}),
    );
    let mut stages = stages(&circuit, &[], false);
    stages.domain = Some(".apps.example".into());
    let asks = |host: &str| {
        let headers = Pairs(vec![("host", host.to_owned())]);
        judge(&stages, &head("GET", &headers)).map(|_| ())
    };
    assert_eq!(asks("LAB.Apps.Example:8443"), Ok(()));
    assert_eq!(
        asks("lab.apps.example.evil"),
        Err(Refusal::UnknownSubdomain("lab.apps.example.evil".into()))
    );
    assert_eq!(
        asks("nope.apps.example"),
        Err(Refusal::UnknownSubdomain("nope".into()))
    );
}

#[test]
fn an_apps_own_word_on_cors_stands() {
    let stages = stages(&circuit("interactive", json!({})), &[], false);
    let id = RequestId::parse("rid").unwrap();
    let dress = |headers| {
        let mut written = Written(Pairs(headers), vec![]);
        stages.dress(&id, &mut written);
        written
    };
    let own = dress(vec![(
        "access-control-allow-origin",
        "https://ui".to_owned(),
    )]);
    assert_eq!(own.of("access-control-allow-origin"), None);
    assert_eq!(own.of("x-backend-request-id"), Some(Some("rid")));
    let silent = dress(vec![("access-control-allow-headers", "x-a".to_owned())]);
    assert_eq!(silent.of("access-control-allow-origin"), Some(Some("*")));
    assert_eq!(
        silent.of("access-control-allow-headers"),
        Some(Some("x-a, authorization"))
    );
}
