use std::sync::Arc;

use patchbay_common::gateway::Published;
use serde_json::json;

use super::{Told, merge, yield_to};
use crate::gateway::config::sections;
use crate::gateway::plan::{Ground, Plan};
use crate::upstream::Settings;

fn published(name: &str, origin: &str, definition: serde_json::Value) -> Published {
    let body = json!({"name": name, "origin": origin, "generation": 1, "definition": definition});
    let one: Published = serde_json::from_value(body).unwrap();
    Published {
        definition: one.definition.map(|definition| definition.of(name)),
        ..one
    }
}

/// What becomes of it: the routes in force with their services, and what was complained of.
fn plan(written: &str, told: Vec<Published>) -> (Vec<String>, Vec<String>) {
    let written: sections::Gateway = toml::from_str(written).unwrap();
    let told = Told {
        coordinator: Arc::from(told),
        ..Told::default()
    };
    let mut complaints = Vec::new();
    let mut complain = |text| complaints.push(text);
    let mut all = merge(&written, &told, &mut complain);
    let rules = Settings::default();
    let ground = Ground {
        rules: &rules,
        sticky_key: b"key",
        tls: false,
        ledger: None,
    };
    let plan = loop {
        let (plan, flaws) = Plan::build(&all, &ground, None);
        if !yield_to(&mut all, &flaws, &mut complain) {
            assert!(flaws.is_empty(), "{flaws:?}");
            break plan;
        }
    };
    let routes = plan.routes().iter();
    let routes = routes.map(|route| format!("{} {}", route.name, route.action.service()));
    (routes.collect(), complaints)
}

const WRITTEN: &str = "[services.own]\ninstances = [\"h:1\"]\n\
                       [routes.own]\npath = \"/own/*\"\nservice = \"own\"\n";

#[test]
fn what_is_written_comes_before_what_was_put_and_that_before_what_was_found() {
    let route = |path: &str| json!({"path": path});
    let (routes, complaints) = plan(
        WRITTEN,
        vec![
            published("own", "api", json!({"routes": {"other": route("/other")}})),
            published("a.b", "api", json!({"routes": {"a.b": route("/own/*")}})),
            published(
                "shop",
                "docker.one",
                json!({"routes": {"shop": route("/found")}}),
            ),
            published("shop", "api", json!({"routes": {"shop": route("/put")}})),
            published("till", "api", json!({"routes": {"own": route("/till")}})),
            published(
                "tied",
                "docker.one",
                json!({"routes": {"tied": route("/put")}}),
            ),
        ],
    );
    assert_eq!(routes, ["own own", "shop shop"]);
    for words in [
        "coordinator, api: own is configured too",
        "coordinator, docker.one: shop is there by coordinator, api too",
        "coordinator, api: a.b is left out: `a.b` and `own` take the same requests",
        "coordinator, api: route own is configured too",
        "coordinator, docker.one: tied is left out: `shop` and `tied` take the same requests",
    ] {
        let told = complaints.iter().filter(|text| text.starts_with(words));
        assert_eq!(told.count(), 1, "{words}: {complaints:#?}");
    }
    assert_eq!(complaints.len(), 5, "{complaints:#?}");
}

#[test]
fn instances_of_several_engines_come_together() {
    let at = |address: &str| json!({"service": {"instances": [address]}, "routes": {"s": {}}});
    let (routes, complaints) = plan(
        "",
        vec![
            published("s", "docker.two", at("b:1")),
            published("s", "docker.one", at("a:1")),
            published("s", "docker.three", at("a:1")),
        ],
    );
    assert_eq!(
        (routes.as_slice(), complaints.len()),
        (["s s".to_owned()].as_slice(), 0)
    );
}

#[test]
fn a_flaw_costs_only_what_has_it() {
    let unknown = json!({"routes": {
        "good": {"path": "/good"},
        "bad": {"path": "/bad", "middleware": ["nobody"]},
    }});
    let broken = json!({"service": {"instances": ["nowhere"]}, "routes": {"broken": {}}});
    let told = vec![
        published("s", "api", unknown),
        published("b", "api", broken),
    ];
    let (routes, complaints) = plan(WRITTEN, told);
    assert_eq!(routes, ["good s", "own own"]);
    assert_eq!(complaints.len(), 2, "{complaints:#?}");
    assert!(
        complaints
            .iter()
            .any(|text| text.contains("`nobody` is not defined"))
    );
}
