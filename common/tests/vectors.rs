//! The bytes of the contract (`contract/vectors.json`, copied beside this file) against our code.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use base64::Engine as _;
use patchbay_common::circuit::Circuit;
use patchbay_common::client_ips::ClientIps;
use patchbay_common::event::{Change, Message};
use patchbay_common::permit::{Digest, PermitKey};
use patchbay_common::subdomain;
use patchbay_common::token::{EndpointClaims, SetupClaims, TokenKey};
use patchbay_common::worker::{Registration, WorkerView};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn cases(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn permit_hashes() {
    let vectors = vectors();
    let cases = cases(&vectors["permit_hash"]["cases"]);
    assert!(!cases.is_empty());
    for case in cases {
        let digest: Digest = serde_json::from_value(case["digest_mod"].clone()).unwrap();
        let key = PermitKey::new(text(&case["secret"]), digest);
        let user = text(&case["user_id_given"]).parse().unwrap();
        let value = key.legacy(user);
        assert_eq!(value, text(&case["cookie_value"]), "{case}");
        assert_eq!(key.verify_legacy(&value, user), Ok(()));
    }
}

#[test]
fn setup_tokens() {
    let vectors = vectors();
    let key = TokenKey::new(text(&vectors["setup_jwt"]["secret"]));
    for case in cases(&vectors["setup_jwt"]["cases"]) {
        let claims: SetupClaims = serde_json::from_value(case["claims"].clone()).unwrap();
        assert_eq!(key.sign(&claims).unwrap(), text(&case["token"]));
        assert_eq!(
            key.verify::<SetupClaims>(text(&case["token"])).unwrap(),
            claims
        );
    }
}

#[test]
fn endpoint_tokens() {
    let vectors = vectors();
    let vector = &vectors["endpoint_jwt"];
    let key = TokenKey::new(text(&vector["secret"]));
    for name in ["token", "minimal_token_also_accepted"] {
        let claims: EndpointClaims = key.verify(text(&vector[name])).unwrap();
        assert_eq!(
            claims.id.as_deref(),
            vector["claims_in_order"]["id"].as_str()
        );
    }
}

#[test]
fn coordinator_bearer_token() {
    let vectors = vectors();
    let vector = &vectors["coordinator_api_bearer_jwt"];
    let key = TokenKey::new(text(&vector["secret"]));
    let claims: Value = key.verify(text(&vector["token"])).unwrap();
    assert_eq!(claims, vector["claims"]);
}

#[test]
fn subdomains() {
    let vectors = vectors();
    for case in cases(&vectors["subdomain_normalize"]["cases"]) {
        let label = subdomain::normalize(case["input"].as_str().unwrap_or_default());
        if case["falls_back"] == true {
            assert_eq!(label, None, "{case}");
        } else {
            assert_eq!(label.as_deref(), case["normalized"].as_str(), "{case}");
        }
    }
    assert!(is_suffixed(&subdomain::random(), "app"));
    for case in cases(&vectors["subdomain_collision"]) {
        let preferred = subdomain::normalize(text(&case["preferred"])).unwrap();
        let other = subdomain::alternative(&preferred);
        let regex = text(&case["expect_regex"]).replace("\\-", "-");
        let stem = regex
            .strip_prefix('^')
            .and_then(|rest| rest.strip_suffix("-[0-9a-f]{8}$"))
            .unwrap();
        assert!(is_suffixed(&other, stem), "{other} does not match {regex}");
        assert!(other.len() <= 63);
    }
}

fn is_suffixed(label: &str, stem: &str) -> bool {
    label
        .strip_prefix(stem)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|digits| {
            digits.len() == 8 && digits.bytes().all(|b| b"0123456789abcdef".contains(&b))
        })
}

#[test]
fn circuit_json_keeps_its_keys_and_order() {
    let vectors = vectors();
    for (object, bytes) in [
        ("interactive", "interactive_compact_bytes"),
        ("inference", "inference_compact_bytes"),
    ] {
        let circuit: Circuit =
            serde_json::from_value(vectors["circuit_json"][object].clone()).unwrap();
        let written = serde_json::to_string(&circuit).unwrap();
        let ours = written
            .strip_suffix(",\"origin_request_id\":null}")
            .map(|head| format!("{head}}}"))
            .unwrap();
        assert_eq!(ours, text(&vectors["circuit_json"][bytes]));
    }
    let legacy = &vectors["circuit_json"]["legacy_25_15_interactive"];
    let _: Circuit = serde_json::from_value(legacy.clone()).unwrap();
}

#[test]
fn worker_registration_forms() {
    let vectors = vectors();
    let vector = &vectors["worker_register"];
    for body in ["body_port_mode", "body_wildcard_mode"] {
        let registration: Registration = serde_json::from_value(vector[body].clone()).unwrap();
        let written = serde_json::to_string(&registration).unwrap();
        assert_eq!(written, vector[body].to_string());
    }
    let view: WorkerView = serde_json::from_value(vector["response_port_mode"].clone()).unwrap();
    assert_eq!(
        serde_json::to_string(&view).unwrap(),
        vector["response_port_mode"].to_string()
    );
}

#[test]
fn events_of_every_generation_are_read() {
    let vectors = vectors();
    let mut read = 0;
    for era in [
        "head_json_payload_era",
        "msgpack_args_era_26_8",
        "msgpack_args_era_26_4",
        "msgpack_args_era_25_15",
    ] {
        for case in cases(&vectors["events"][era]) {
            if case["kind"] == "broadcast" {
                let wire = base64::engine::general_purpose::STANDARD
                    .decode(text(&case["bytes_b64"]))
                    .unwrap();
                let message = Message::from_wire(&wire).unwrap().unwrap();
                assert_eq!(message.event.name(), text(&case["name"]), "{era}");
                assert!(message.event.authority.starts_with("worker-"), "{era}");
                read += 1;
            }
        }
    }
    assert_eq!(read, 16);
}

#[test]
fn the_universal_form_is_read_and_written() {
    let vectors = vectors();
    let messages = cases(&vectors["events"]["dual_encoded_universal"]["messages"]);
    let broadcasts: Vec<_> = messages
        .iter()
        .filter(|case| case["kind"] == "broadcast")
        .collect();
    assert!(!broadcasts.is_empty());
    for case in broadcasts {
        let wire = text(&case["bytes_utf8"]);
        let message = Message::from_wire(wire.as_bytes()).unwrap().unwrap();
        let again: Value = serde_json::from_str(&message.to_wire().unwrap()).unwrap();
        let given: Value = serde_json::from_str(wire).unwrap();
        for key in ["name", "source", "metadata"] {
            assert_eq!(again[key], given[key], "{key}");
        }
        // Beyond the additive key of ours, both bodies are the incumbent's.
        let reread = Message::from_wire(again.to_string().as_bytes())
            .unwrap()
            .unwrap();
        assert_eq!(reread, message);
        let mut args_only = again.clone();
        args_only.as_object_mut().unwrap().remove("payload");
        let from_args = Message::from_wire(args_only.to_string().as_bytes())
            .unwrap()
            .unwrap();
        assert_eq!(from_args, message);
        assert!(
            !matches!(message.event.change, Change::Added(_)) || message.source.contains("worker")
        );
    }
}

#[test]
fn allowed_client_ips() {
    let vectors = vectors();
    for case in cases(&vectors["allowed_client_ips"]) {
        let list = ClientIps::parse(case["list"].as_str());
        let admitted = text(&case["client"])
            .parse()
            .is_ok_and(|ip| list.admits(ip));
        let closed_by_us = list.is_restricted() && list.networks().is_empty();
        // Where every entry is invalid the incumbent opens up; we close (pitfalls.md A12).
        let expected = case["allowed"] == true && !closed_by_us;
        if !text(&case["client"]).contains("::ffff:") {
            assert_eq!(admitted, expected, "{case}");
        }
        let ranges: Vec<_> = list.networks().iter().map(ToString::to_string).collect();
        assert_eq!(
            serde_json::to_value(ranges).unwrap(),
            case["ranges"],
            "{case}"
        );
    }
}
