use serde_json::json;

use super::{Definition, Origin, Published};

fn flaws(name: &str, body: serde_json::Value) -> Vec<String> {
    let definition: Definition = serde_json::from_value(body).unwrap();
    let mut flaws = Vec::new();
    definition.of(name).check(name, &mut |key, problem| {
        flaws.push(format!("{key}: {problem}"));
    });
    flaws
}

#[test]
fn what_is_written_is_read_again() {
    let body = json!({
        "service": {
            "instances": ["a:1", {"address": "b:2", "weight": 2.5}],
            "balance": "hash", "hash_by": "header:x-tenant",
            "sticky": {"cookie": "c", "lifetime": "1h"},
            "health": {"path": "/healthz", "interval": "250ms", "status": 204},
            "breaker": {"ratio": 0.25}, "max_outstanding": 7, "retry_ratio": 0.5,
        },
        "routes": {
            "one": {"host": "a.example", "path": "/one/*", "methods": ["GET"],
                "headers": {"x-a": "*"}, "request_headers": {"X-Debug": ""}, "retry_status": []},
            "two": {"path_prefix": "/two", "redirect": {"to": "/one/", "status": 308}},
        },
    });
    let definition: Definition = serde_json::from_value(body).unwrap();
    let published = Published {
        name: "shop".into(),
        origin: Origin::Docker("local".into()),
        generation: 7,
        definition: Some(definition.of("shop")),
        request_id: None,
    };
    let text = serde_json::to_string(&published).unwrap();
    assert_eq!(serde_json::from_str::<Published>(&text).unwrap(), published);
    assert!(
        text.contains("\"1h\"") || text.contains("\"3600s\""),
        "{text}"
    );
    assert!(text.contains("\"service\":\"shop\""), "{text}");
    assert!(text.contains("\"retry_status\":[]"), "{text}");
}

#[test]
fn every_mistake_is_told_with_its_key() {
    let wrong = flaws(
        "shop",
        json!({
            "service": {"instances": ["nowhere", "a:1", "http://a:1/"], "hash_by": "x",
                "health": {"path": "x"}, "breaker": {"ratio": 2.0}},
            "routes": {
                "one": {"path": "/x", "path_prefix": "/y"},
                "two": {"service": "other", "methods": ["get"], "retries": 9},
                "same": {"host": "A.example", "path": "/s/{x}"},
                "so": {"host": ["b.example", "a.example"], "path": "/s/{y}"},
                "a b": {"path": "/z"},
            },
        }),
    );
    for start in [
        "service.instances: `nowhere`",
        "service.instances: `http://a:1/` is there twice",
        "service.hash_by: means",
        "service.hash_by: `x`",
        "service.health.path",
        "service.breaker.ratio",
        "routes.one.path_prefix",
        "routes.two.service: routes here lead to shop",
        "routes.two.methods",
        "routes.two.retries: may be 2",
        "routes.so: `same` and `so` take the same requests (a.example, /s/{})",
        "routes.a b: letters",
    ] {
        let told = wrong.iter().filter(|flaw| flaw.starts_with(start));
        assert_eq!(told.count(), 1, "{start}: {wrong:#?}");
    }
    assert_eq!(wrong.len(), 12, "{wrong:#?}");
}

#[test]
fn a_more_specific_route_is_no_tie() {
    let fine = flaws(
        "shop",
        json!({"routes": {
            "all": {"path": "/a/*"},
            "one": {"path": "/a/b"},
            "post": {"path": "/a/*", "methods": ["POST"]},
            "get": {"path": "/a/*", "methods": ["GET"]},
            "host": {"host": "h.example", "path": "/a/*"},
        }}),
    );
    assert!(fine.is_empty(), "{fine:#?}");
    let tie = flaws(
        "shop",
        json!({"routes": {"a": {"path": "/a/*"}, "b": {"path_prefix": "/a"}}}),
    );
    assert_eq!(tie.len(), 1, "{tie:#?}");
}

#[test]
fn origins_are_ordered_and_read() {
    let docker: Origin = "docker.host.two".parse().unwrap();
    assert_eq!(docker, Origin::Docker("host.two".into()));
    assert!(Origin::Api < docker);
    assert!("consul.x".parse::<Origin>().is_err());
    assert_eq!(Origin::Api.to_string(), "api");
}
