use super::{Conditions, HeaderCondition, HostPattern, PathPattern, Router, Rule, Segments};
use crate::gateway::trial::{Headers, head};

fn rule(name: &str, host: &str, path: &str) -> Rule {
    let path = match path.strip_suffix("/**") {
        Some(prefix) => PathPattern::prefix(prefix),
        None => PathPattern::parse(path),
    };
    let hosts = host.split(' ').filter(|host| !host.is_empty());
    Rule {
        name: name.into(),
        hosts: hosts
            .map(|host| HostPattern::parse(host).unwrap())
            .collect(),
        path: path.unwrap(),
        conditions: Conditions::default(),
    }
}

fn only(mut rule: Rule, methods: &[&str], headers: &[(&str, &str)]) -> Rule {
    rule.conditions.methods = methods.iter().map(|&method| method.into()).collect();
    rule.conditions.headers = headers
        .iter()
        .map(|&(name, value)| HeaderCondition {
            name: name.into(),
            value: (value != "*").then(|| value.into()),
        })
        .collect();
    rule
}

struct Table {
    rules: Vec<Rule>,
    router: Router,
}

impl Table {
    fn new(rules: Vec<Rule>) -> Self {
        let router = Router::build(&rules).unwrap();
        Self { rules, router }
    }

    fn ask(&self, request: &str, headers: Vec<(&'static str, &'static str)>) -> &str {
        let (method, rest) = request.split_once(' ').unwrap();
        let (host, path) = rest
            .split_once('/')
            .map_or((rest, "/".into()), |(host, path)| {
                (host, format!("/{path}"))
            });
        let headers = Headers::of(&headers);
        let head = head(method, &path, &headers);
        let Ok(segments) = Segments::of(&path) else {
            return "refused";
        };
        self.router
            .route(host, &segments, &head)
            .map_or("none", |index| &self.rules[index].name)
    }

    fn get(&self, place: &str) -> &str {
        self.ask(&format!("GET {place}"), Vec::new())
    }
}

#[test]
fn the_more_exact_host_wins_and_a_lesser_one_helps_out() {
    let table = Table::new(vec![
        rule("exact", "a.example.com", "/x"),
        rule("suffix", "*.example.com", "/*"),
        rule("long-suffix", "*.b.example.com", "/*"),
        rule("any", "", "/*"),
    ]);
    assert_eq!(table.get("a.example.com/x"), "exact");
    assert_eq!(table.get("A.Example.COM.:8080/x"), "exact");
    assert_eq!(table.get("a.example.com/y"), "suffix");
    assert_eq!(table.get("c.b.example.com/y"), "long-suffix");
    assert_eq!(table.get("d.c.b.example.com/y"), "long-suffix");
    assert_eq!(table.get("example.com/y"), "any");
    assert_eq!(table.get("evil-example.com/y"), "any");
    assert_eq!(table.get(".example.com/y"), "any");
    assert_eq!(table.get(&format!("{}/y", "x".repeat(400))), "any");
}

#[test]
fn the_path_that_names_more_wins() {
    let table = Table::new(vec![
        rule("root", "", "/"),
        rule("all", "", "/*"),
        rule("api", "", "/api/*"),
        rule("prefix", "", "/web/**"),
        rule("user", "", "/api/users/{id}"),
        rule("me", "", "/api/users/me"),
        rule("posts", "", "/api/users/{id}/posts"),
        rule("slash", "", "/exact/"),
    ]);
    for (path, route) in [
        ("h/", "root"),
        ("h/api", "all"),
        ("h/api/", "api"),
        ("h/api/x/y", "api"),
        ("h/api/users", "api"),
        ("h/api/users/7", "user"),
        ("h/api/users/me", "me"),
        ("h/api/users/me/posts", "posts"),
        ("h/api/users/7/", "api"),
        ("h/web", "prefix"),
        ("h/web/", "prefix"),
        ("h/web/a/b", "prefix"),
        ("h/website", "all"),
        ("h/exact/", "slash"),
        ("h/exact", "all"),
    ] {
        assert_eq!(table.get(path), route, "{path}");
    }
}

#[test]
fn what_a_service_takes_for_the_same_path_takes_the_same_route() {
    let table = Table::new(vec![
        rule("open", "", "/*"),
        rule("guarded", "", "/admin/*"),
        rule("page", "", "/page"),
    ]);
    for path in ["h//admin/x", "h/%61dmin/x", "h/admin//x", "h/admin%2e/../x"] {
        let route = table.get(path);
        assert!(matches!(route, "guarded" | "refused"), "{path}: {route}");
    }
    for path in [
        "h/open/../admin/x",
        "h/./admin/x",
        "h/%2e%2e/admin/x",
        "h/.%2E/admin/x",
        "h/open%2f..%2fadmin",
        "h/open\\..\\admin",
        "h/a%00b",
        "h/a%0d%0ab",
        "h/%ff",
    ] {
        assert_eq!(table.get(path), "refused", "{path}");
    }
    assert_eq!(
        table.get("h/admin%2fx"),
        "open",
        "an escaped slash divides nothing"
    );
    assert_eq!(table.get("h/page%2f"), "open");
    assert_eq!(table.get("h/100%/x"), "open", "not an escape");
    assert_eq!(table.get(&format!("h{}", "/a".repeat(65))), "refused");
}

#[test]
fn methods_and_headers_decide_between_equal_paths() {
    let table = Table::new(vec![
        rule("all", "", "/*"),
        rule("any", "", "/x"),
        only(rule("write", "", "/x"), &["POST", "PUT"], &[]),
        only(rule("beta", "", "/x"), &[], &[("x-version", "2")]),
        only(rule("marked", "", "/x"), &[], &[("x-version", "*")]),
        only(rule("write-only", "", "/y"), &["POST"], &[]),
    ]);
    assert_eq!(table.ask("GET h/x", vec![]), "any");
    assert_eq!(table.ask("PUT h/x", vec![]), "write");
    assert_eq!(table.ask("PUT h/x", vec![("x-version", "2")]), "beta");
    assert_eq!(table.ask("GET h/x", vec![("x-version", "3")]), "marked");
    assert_eq!(
        table.ask("GET h/x", vec![("x-version", "3"), ("x-version", "2")]),
        "beta"
    );
    assert_eq!(table.ask("POST h/y", vec![]), "write-only");
    assert_eq!(table.ask("GET h/y", vec![]), "all", "passed over");
}

#[test]
fn ties_are_refused_and_all_named() {
    let rules = vec![
        rule("a", "x.com", "/api/{id}"),
        rule("b", "*.com x.com", "/api/{name}"),
        rule("c", "", "/web/*"),
        rule("d", "", "/web/**"),
        only(rule("e", "", "/m"), &["GET", "PUT"], &[]),
        only(rule("f", "", "/m"), &["PUT"], &[]),
        only(rule("g", "", "/m"), &["POST"], &[]),
        only(rule("h", "", "/h"), &[], &[("v", "1")]),
        only(rule("i", "", "/h"), &[], &[("v", "2")]),
        only(rule("j", "", "/h"), &[], &[("w", "2")]),
    ];
    let ties = Router::build(&rules).unwrap_err();
    let pairs: Vec<_> = ties
        .iter()
        .map(|tie| format!("{}{}", tie.first, tie.second))
        .collect();
    assert_eq!(pairs, ["ab", "cd", "ef", "hj", "ij"]);
    assert!(
        ties[0].to_string().contains("x.com, /api/{}"),
        "{}",
        ties[0]
    );
}

#[test]
fn patterns_that_cannot_be_meant_are_refused() {
    for path in [
        "api", "/a/*/b", "/a*", "/{}/x", "/x{id}", "/a/../b", "/{a}{b}",
    ] {
        assert!(PathPattern::parse(path).is_err(), "{path}");
    }
    for host in [
        "", "*", "*x.com", "a.*.com", "http://a", "a:80", "a/b", "a..b",
    ] {
        assert!(HostPattern::parse(host).is_err(), "{host}");
    }
    assert!(HostPattern::parse("[::1]").is_ok());
}

#[test]
fn a_prefix_is_taken_off_as_it_was_sent() {
    use super::path_after as after;
    for (path, count, rest) in [
        ("/api/x/y", 1, "/x/y"),
        ("/api", 1, ""),
        ("/api/", 1, "/"),
        ("//api//x", 1, "//x"),
        ("/a/b%2Fc", 1, "/b%2Fc"),
        ("/a/b", 0, "/a/b"),
        ("/a/b", 2, ""),
    ] {
        assert_eq!(after(path, count), rest, "{path} {count}");
    }
}
