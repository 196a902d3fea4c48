use super::{Action, Flaw, Ground, Plan};
use crate::gateway::config::sections;
use crate::upstream::Settings;

fn build(text: &str, before: Option<&Plan>) -> (Plan, Vec<Flaw>) {
    let wanted: sections::Gateway = toml::from_str(text).unwrap();
    let rules = Settings::default();
    let ground = Ground {
        rules: &rules,
        sticky_key: b"key",
        tls: false,
        ledger: None,
    };
    Plan::build(&wanted, &ground, before)
}

const MISTAKES: &str = r#"
        default_middleware = ["nobody"]
        [services.a]
        instances = ["nowhere", "h:0", { address = "h:1", weight = -1 }, "h:2", "h:2"]
        hash_by = "cookie"
        breaker = { ratio = 2.0 }
        [routes.one]
        path = "x"
        path_prefix = "/y"
        service = "b"
        [routes.two]
        host = "http://h"
        path = "/a/*/b"
        methods = ["get"]
        strip_prefix = "/c"
        request_headers = { "Content-Length" = "1", "no name" = "x" }
        [routes.three]
        path = "/three"
        service = "a"
        redirect = { to = "/" }
        middleware = ["by-subject"]
        retries = 9
        retry_status = [404]
        [routes.four]
        redirect = { to = "", status = 200 }
        [middleware.by-subject.rate_limit]
        rate = 1
        key = "subject"
        [middleware.two-kinds.cors]
        origins = ["*"]
        credentials = true
        [middleware.two-kinds.addresses]
        [middleware.token.jwt]
        algorithms = ["none", "HS256", "RS256"]
        secret = "short"
        leeway = "9999d"
        jwks_url = "ftp://x"
        [middleware.keys.api_key.keys.a]
        sha256 = "abc"
        [middleware.limit.rate_limit]
        burst = 0
        [middleware.ours.rate_limit]
        rate = 1
        shared = true
"#;

#[test]
fn every_mistake_is_told_with_its_key() {
    let (_, flaws) = build(MISTAKES, None);
    let keys: Vec<&str> = flaws.iter().map(|(key, _)| key.as_str()).collect();
    for key in [
        "services.a.instances",
        "services.a.hash_by",
        "services.a.breaker.ratio",
        "routes.one.path_prefix",
        "routes.one.service",
        "routes.one.middleware",
        "routes.two.host",
        "routes.two.path",
        "routes.two.methods",
        "routes.two.request_headers",
        "routes.two.service",
        "routes.three.service",
        "routes.three.middleware",
        "routes.three.retries",
        "routes.three.retry_status",
        "routes.four.redirect.to",
        "routes.four.redirect.status",
        "middleware.two-kinds",
        "middleware.two-kinds.cors.credentials",
        "middleware.token.jwt",
        "middleware.token.jwt.algorithms",
        "middleware.token.jwt.leeway",
        "middleware.keys.api_key.keys.a.sha256",
        "middleware.limit.rate_limit.rate",
        "middleware.ours.rate_limit.shared",
    ] {
        assert!(keys.contains(&key), "{key} is not among {keys:#?}");
    }
}

#[test]
fn ties_between_routes_are_mistakes() {
    let (plan, flaws) = build(
        "[services.a]\n[routes.one]\npath = \"/x/{id}\"\nservice = \"a\"\n\
         [routes.two]\npath = \"/x/{name}\"\nservice = \"a\"\n",
        None,
    );
    assert_eq!(flaws.len(), 1);
    assert!(flaws[0].1.contains("`one` and `two`"), "{flaws:?}");
    assert!(plan.routes().is_empty());
}

#[test]
fn what_has_not_changed_is_taken_over() {
    let text = "[services.a]\ninstances = [\"h:1\"]\n[services.b]\ninstances = [\"h:1\"]\n\
                [routes.a]\npath = \"/a\"\nservice = \"a\"\n[routes.b]\npath = \"/b\"\nservice = \"b\"\n";
    let (before, _) = build(text, None);
    let changed = text.replace(
        "[services.b]\ninstances = [\"h:1\"]",
        "[services.b]\ninstances = [\"h:1\", \"h:2\"]",
    );
    let (after, flaws) = build(&changed, Some(&before));
    assert!(flaws.is_empty(), "{flaws:?}");
    let service = |plan: &Plan, name: &str| match &plan.routes()[usize::from(name == "b")].action {
        Action::Service(service) => std::sync::Arc::clone(service),
        other => panic!("{other:?}"),
    };
    assert!(std::sync::Arc::ptr_eq(
        &service(&before, "a"),
        &service(&after, "a")
    ));
    let (old, new) = (service(&before, "b"), service(&after, "b"));
    assert!(!std::sync::Arc::ptr_eq(&old, &new));
    let first = |service: &super::LiveService| service.upstreams.all().next().cloned().unwrap();
    assert!(
        std::sync::Arc::ptr_eq(&first(&old), &first(&new)),
        "with its health"
    );
    let counts = |plan: &Plan| std::sync::Arc::clone(&plan.routes()[1].counts);
    assert!(std::sync::Arc::ptr_eq(&counts(&before), &counts(&after)));
}
