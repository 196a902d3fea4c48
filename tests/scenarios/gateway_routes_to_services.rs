//! The gateway carries requests to services by host, path, method and header, and changes them as
//! their route says. It needs no coordinator, no Redis and no database.

use anyhow::{Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::gateway::{Gateway, service};
use reqwest::Method;
use serde_json::Value;

const ROUTES: &str = r#"
[gateway.routes.everything]
service = "site"

[gateway.routes.api]
path = "/api/*"
service = "api"
strip_prefix = "/api"
add_prefix = "/v2"
request_headers = { "X-From" = "gateway", "X-Secret" = "" }
response_headers = { "X-Served-By" = "patchbay" }

[gateway.routes.api-write]
path = "/api/*"
methods = ["POST"]
service = "site"

[gateway.routes.beta]
path = "/api/*"
headers = { x-beta = "1" }
service = "site"

[gateway.routes.tenants]
host = "*.tenant.example"
service = "api"

[gateway.routes.old]
path_prefix = "/old"
redirect = { to = "https://new.example{path}", status = 308 }

[gateway.routes.robots]
path = "/robots.txt"
respond = { body = "User-agent: *\nDisallow: /\n" }
"#;

struct Town {
    gateway: Gateway,
    site: App,
    api: App,
}

impl Town {
    async fn new() -> Result<Self> {
        let (site, api) = (App::start().await?, App::start().await?);
        let services = service("site", &[&site]) + &service("api", &[&api]);
        let gateway = Gateway::start(&format!("{services}{ROUTES}")).await?;
        Ok(Self { gateway, site, api })
    }
}

fn header<'a>(echo: &'a Value, name: &str) -> Option<&'a str> {
    let all = echo["headers"].as_array()?;
    let pair = all.iter().find(|pair| pair[0] == name)?;
    pair[1].as_str()
}

#[tokio::test]
async fn by_what_is_most_specific() -> Result<()> {
    let town = Town::new().await?;
    let gateway = &town.gateway;
    gateway.get("/x", &[]).await?.expect(200)?;
    ensure!(town.site.seen("/x").len() == 1, "the site did not get it");

    let answer = gateway
        .get("/api/orders/7?q=1", &[("x-secret", "s"), ("x-from", "me")])
        .await?
        .expect(200)?;
    assert_eq!(answer.header("x-served-by"), "patchbay");
    ensure!(!answer.header("x-backend-request-id").is_empty(), "no id");
    let echo = answer.json()?;
    assert_eq!(echo["target"], "/v2/orders/7?q=1");
    assert_eq!(header(&echo, "x-from"), Some("gateway"));
    assert_eq!(header(&echo, "x-secret"), None);
    assert_eq!(header(&echo, "x-forwarded-for"), Some("127.0.0.1"));
    ensure!(!town.api.seen("/v2/orders/7").is_empty(), "not the API");

    let post = gateway.ask(Method::POST, "/api/orders", &[]).await?;
    post.expect(200)?;
    ensure!(town.site.seen("/api/orders").len() == 1, "by method");
    gateway
        .get("/api/beta", &[("x-beta", "1")])
        .await?
        .expect(200)?;
    ensure!(town.site.seen("/api/beta").len() == 1, "by header");
    let host = [("host", "one.tenant.example:8080")];
    gateway.get("/tenants", &host).await?.expect(200)?;
    ensure!(town.api.seen("/tenants").len() == 1, "by host");

    let moved = gateway.get("/old/page?a=b", &[]).await?.expect(308)?;
    assert_eq!(moved.header("location"), "https://new.example/old/page?a=b");
    let robots = gateway.get("/robots.txt", &[]).await?.expect(200)?;
    assert_eq!(robots.text(), "User-agent: *\nDisallow: /\n");
    Ok(())
}

#[tokio::test]
async fn and_websockets_too() -> Result<()> {
    let town = Town::new().await?;
    assert_eq!(town.gateway.upgrade("/ws/first", &[]).await?, 101);
    let through_api = [("host", "a.tenant.example")];
    assert_eq!(town.gateway.upgrade("/ws/first", &through_api).await?, 101);
    assert_eq!(town.site.seen("/ws/first").len(), 1);
    assert_eq!(town.api.seen("/ws/first").len(), 1);
    Ok(())
}

#[tokio::test]
async fn and_says_so_where_there_is_no_way() -> Result<()> {
    let app = App::start().await?;
    let gone = App::start().await?;
    let services = service("app", &[&app]) + &service("gone", &[&gone]);
    drop(gone);
    let routes = "[gateway.routes.app]\npath = \"/app/*\"\nservice = \"app\"\n\
                  [gateway.routes.gone]\npath = \"/gone/*\"\nservice = \"gone\"\n\
                  [gateway.services.none]\n\
                  [gateway.routes.none]\npath = \"/none/*\"\nservice = \"none\"\n";
    let mut gateway = Gateway::start(&format!("{services}{routes}")).await?;
    for (path, status, kind) in [
        ("/elsewhere", 404, "gateway/no-route"),
        ("/app/a%00b", 400, "gateway/path"),
        ("/gone/x", 503, "gateway/service-unavailable"),
        ("/none/x", 503, "gateway/service-unavailable"),
    ] {
        let id = [("x-backend-request-id", "asked-for-this")];
        let answer = gateway.get(path, &id).await?.expect(status)?;
        assert_eq!(answer.header("x-backend-request-id"), "asked-for-this");
        let body = answer.json()?;
        let uri = format!("https://api.backend.ai/probs/{kind}");
        assert_eq!(body["type"], uri.as_str());
        assert_eq!(body["request_id"], "asked-for-this");
        assert_eq!(gateway.upgrade(path, &id).await?, status, "{path}");
        let page = gateway.get(path, &[("accept", "text/html")]).await?;
        ensure!(page.text().contains("<!doctype html>"), "no page");
    }
    ensure!(app.seen("/app/a%00b").is_empty(), "the app heard of it");
    gateway.stop().await
}
