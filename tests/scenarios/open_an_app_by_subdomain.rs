//! A person opens an app whose worker gives out subdomains. The permit is handed over on the
//! app's own host, against a ticket that is good once.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use patchbay_common::permit::{self, Ticket};
use patchbay_tests::browser::Browser;
use patchbay_tests::raw::Connection;
use patchbay_tests::rig::{Parts, Rig};
use patchbay_tests::secrets;
use patchbay_tests::worker::DOMAIN;
use reqwest::Url;
use uuid::Uuid;

async fn a_person_reaches_the_app(parts: Parts) -> Result<()> {
    let rig = Rig::start(parts).await?;
    let order = rig
        .order("Jupyter Lab")
        .with("redirect", "/hello?from=setup");
    let opened = rig
        .opener
        .open(&order.with("subdomain", "Jupyter Lab"))
        .await?;

    let browser = Browser::new()?;
    let way = browser.visit(&opened.setup).await?;
    let hosts: Vec<&str> = way
        .iter()
        .filter_map(|answer| answer.url.host_str())
        .collect();
    let app = format!("jupyter-lab{DOMAIN}");
    assert_eq!(hosts, ["127.0.0.1", app.as_str(), app.as_str()], "{way:?}");
    assert_eq!(way[1].url.path(), "/.patchbay/permit");
    let page = way.last().context("no page")?;
    assert_eq!(page.text(), "hello from the app");
    assert_eq!(page.url.query(), Some("from=setup"));

    // Nothing was left on the worker's own host, and the app's cookie stays with the app.
    assert_eq!(way[0].header("set-cookie"), "");
    let cookies = browser.cookies();
    assert_eq!(cookies.len(), 1, "{cookies:?}");
    assert_eq!(cookies[0].host, app);
    assert!(!cookies[0].for_subdomains);
    assert_eq!(cookies[0].name, permit::cookie_name(opened.circuit));
    assert_eq!(way[1].header("cache-control"), "no-store");
    Ok(())
}

#[tokio::test]
async fn with_sqlite_and_the_stream() -> Result<()> {
    a_person_reaches_the_app(Parts::embedded().wildcard()).await
}

#[tokio::test]
async fn with_postgres_and_redis() -> Result<()> {
    a_person_reaches_the_app(Parts::servers().wildcard()).await
}

/// The link with the ticket that `/setup` sends a browser to.
async fn ticket_link(setup: &str) -> Result<Url> {
    let answer = Browser::new()?.get(setup).await?.expect(302)?;
    Ok(answer.url.join(answer.header("location"))?)
}

#[tokio::test]
async fn a_ticket_is_good_once() -> Result<()> {
    let rig = Rig::start(Parts::embedded().wildcard()).await?;
    let opened = rig.opener.open(&rig.order("jupyter")).await?;
    let link = ticket_link(&opened.setup).await?;
    let first = Browser::new()?.get(link.as_str()).await?.expect(302)?;
    assert_ne!(first.header("set-cookie"), "");

    let second = Browser::new()?.get(link.as_str()).await?;
    assert!(
        second.status.is_client_error(),
        "{}: {}",
        second.status,
        second.text()
    );
    assert_eq!(second.header("set-cookie"), "");
    Ok(())
}

#[tokio::test]
async fn a_ticket_is_good_for_its_app_and_its_time() -> Result<()> {
    let rig = Rig::start(Parts::embedded().wildcard()).await?;
    let (one, two) = (rig.open("one").await?, rig.open("two").await?);
    let link = ticket_link(&one.opened.setup).await?;

    let mut elsewhere = link.clone();
    elsewhere.set_host(Url::parse(&two.url)?.host_str())?;
    let mut altered = link.clone();
    altered.set_query(Some(
        &link
            .query()
            .context("no ticket")?
            .replace("ticket=", "ticket=x"),
    ));
    let mut none = link.clone();
    none.set_query(None);
    let mut late = link.clone();
    let ticket = Ticket {
        circuit: one.circuit,
        grant: "late".into(),
        jti: Uuid::new_v4(),
        expires: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() - 1,
        redirect: String::new(),
    };
    let expired = secrets::permit_key().issue_ticket(&ticket);
    late.set_query(Some(&format!("ticket={expired}")));

    for bad in [elsewhere, altered, none, late] {
        let answer = Browser::new()?.get(bad.as_str()).await?;
        assert!(
            answer.status.is_client_error(),
            "{bad} answers {}",
            answer.status
        );
        assert_eq!(answer.header("set-cookie"), "", "{bad}");
    }
    Browser::new()?.get(link.as_str()).await?.expect(302)?;
    Ok(())
}

#[tokio::test]
async fn a_host_name_matches_in_any_case_and_only_as_a_whole() -> Result<()> {
    let rig = Rig::start(Parts::embedded().wildcard()).await?;
    let door = rig
        .open_order(&rig.order("jupyter").with("subdomain", "jupyter"))
        .await?;
    let port = rig.worker.slots.first();
    for (host, status) in [
        (format!("JUPYTER{}:{port}", DOMAIN.to_uppercase()), "200"),
        (format!("jupyter{DOMAIN}"), "200"),
        (format!("other{DOMAIN}:{port}"), "400"),
        (format!("a.jupyter{DOMAIN}:{port}"), "400"),
        (format!("jupyter.evil.example:{port}"), "400"),
        (format!("127.0.0.1:{port}"), "400"),
    ] {
        let mut connection = Connection::open(door.address()?).await?;
        let host_line = format!("Host: {host}");
        let cookie = format!("Cookie: {}", door.cookie());
        connection
            .write_head(&["GET /hello HTTP/1.1", &host_line, &cookie])
            .await?;
        let head = connection.read_head().await?;
        assert_eq!(head.status(), status, "{host}: {head:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_taken_name_becomes_another() -> Result<()> {
    let rig = Rig::start(Parts::embedded().wildcard()).await?;
    let wish = || rig.order("jupyter").with("subdomain", "notebook");
    let first = rig.open_order(&wish()).await?;
    let second = rig.open_order(&wish()).await?;
    assert!(first.url.contains("//notebook."), "{}", first.url);
    assert!(second.url.contains("//notebook-"), "{}", second.url);
    first.get("/hello").await?.expect(200)?;
    second.get("/hello").await?.expect(200)?;
    first.browser.get(&second.at("/hello")).await?.expect(401)?;
    Ok(())
}
