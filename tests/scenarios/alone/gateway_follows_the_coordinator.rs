//! Services that an operator puts at the coordinator are served by the gateways within a second,
//! and go on being served whatever happens to the coordinator, Redis and the events between them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::coordinator::Store;
use patchbay_tests::eventually::eventually;
use patchbay_tests::fleet::{Fleet, service};
use patchbay_tests::gateway::{self, Gateway};
use patchbay_tests::load::Load;
use patchbay_tests::program::run;
use patchbay_tests::rig::Parts;
use patchbay_tests::secrets;
use reqwest::Method;
use serde_json::json;

use crate::report_figure;

/// A change is in force by then.
const SOON: Duration = Duration::from_secs(1);

async fn a_service_comes_changes_and_goes(parts: Parts, what: &str) -> Result<()> {
    let fleet = Fleet::start(parts, "").await?;
    let (one, two) = (App::start().await?, App::start().await?);
    fleet.get("/shop/hello").await?.expect(404)?;

    fleet.put("shop", &service("shop", &[&one])).await?;
    let put = fleet.answers("/shop/hello", 200).await?;
    fleet.put("shop", &service("shop", &[&two])).await?;
    let changed = fleet.reaches(&two, "/shop/changed").await?;
    let listed = fleet.call(Method::GET, "/api/services", None).await?;
    let listed = listed.expect(200)?.json()?;
    ensure!(listed["generation"] == 2, "{listed}");
    ensure!(listed["services"][0]["origin"] == "api", "{listed}");
    fleet.delete("shop").await?;
    let gone = fleet.answers("/shop/hello", 404).await?;
    report_figure(format_args!(
        "{what}: a service put is served after {} ms, changed {} ms, gone {} ms",
        put.as_millis(),
        changed.as_millis(),
        gone.as_millis()
    ));
    ensure!(put.max(changed).max(gone) < SOON, "not within a second");

    let path = "/api/services/_/audit?service=shop";
    let audit = fleet.call(Method::GET, path, None).await?.expect(200)?;
    let audit = audit.json()?;
    let entries = audit["entries"].as_array().context("no entries")?;
    let actions: Vec<_> = entries.iter().map(|one| one["action"].as_str()).collect();
    ensure!(
        actions == [Some("removed"), Some("put"), Some("put")],
        "{audit}"
    );
    ensure!(entries[0]["actor"] == "manager", "{audit}");
    ensure!(entries[0]["request_id"].is_string(), "{audit}");
    Ok(())
}

#[tokio::test]
async fn with_sqlite_and_the_stream() -> Result<()> {
    a_service_comes_changes_and_goes(Parts::embedded(), "SQLite and the stream").await
}

#[tokio::test]
async fn with_postgres_and_redis() -> Result<()> {
    a_service_comes_changes_and_goes(Parts::servers(), "PostgreSQL and Redis").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_and_redis_die_and_nobody_notices() -> Result<()> {
    let mut fleet = Fleet::start(Parts::servers(), "").await?;
    let app = App::start().await?;
    fleet.put("shop", &service("shop", &[&app])).await?;
    fleet.answers("/shop/hello", 200).await?;
    let load = Load::start(vec![fleet.target("/shop/hello")], 500)?;
    load.answers(300).await?;

    fleet.rig.coordinator.program.kill().await?;
    load.answers(1_000).await?;
    fleet.rig.redis()?.stop().await?;
    load.answers(1_000).await?;
    fleet.rig.coordinator.start_again().await?;
    fleet.put("till", &service("till", &[&app])).await?;
    let took = fleet.answers("/till/hello", 200).await?;
    fleet.rig.redis()?.restart().await?;
    fleet.put("desk", &service("desk", &[&app])).await?;
    fleet.answers("/desk/hello", 200).await?;
    load.answers(500).await?;
    let tally = load.finish().await?;
    report_figure(format_args!(
        "coordinator killed, Redis stopped: {tally}; a change after its return, without Redis, \
         is in force after {} ms",
        took.as_millis()
    ));
    ensure!(took < Duration::from_secs(2), "{took:?}");
    tally.ensure_faultless()
}

#[tokio::test]
async fn what_was_never_told_is_found() -> Result<()> {
    let mut fleet = Fleet::start(Parts::servers(), "").await?;
    let (one, two) = (App::start().await?, App::start().await?);
    fleet.put("shop", &service("shop", &[&one])).await?;
    fleet.reaches(&one, "/shop/first").await?;
    let behind_its_back = async |fleet: &Fleet, from: &App, to: &App| -> Result<()> {
        let Store::Postgres(database) = &fleet.rig.store else {
            anyhow::bail!("no PostgreSQL");
        };
        let sql = format!(
            "UPDATE patchbay_services_generation SET generation = generation + 7; \
             UPDATE patchbay_services SET definition = replace(definition, '{}', '{}'), \
             generation = generation + 7;",
            from.address, to.address
        );
        Ok(database.connect().await?.batch_execute(&sql).await?)
    };
    // While everything runs: there is no event, only a number that has grown.
    behind_its_back(&fleet, &one, &two).await?;
    let running = fleet.reaches(&two, "/shop/second").await?;
    // While the coordinator is away.
    fleet.rig.coordinator.program.kill().await?;
    behind_its_back(&fleet, &two, &one).await?;
    fleet.rig.coordinator.start_again().await?;
    let back = fleet.reaches(&one, "/shop/third").await?;
    report_figure(format_args!(
        "changes without an event are found after {} ms, after a restart {} ms",
        running.as_millis(),
        back.as_millis()
    ));
    ensure!(
        running.max(back) < Duration::from_secs(3),
        "{running:?}, {back:?}"
    );
    // The log goes on where it was broken.
    fleet.put("till", &service("till", &[&two])).await?;
    ensure!(
        fleet.answers("/till/hello", 200).await? < SOON,
        "a change after"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_written_comes_first_and_mistakes_are_told() -> Result<()> {
    let (own, other) = (App::start().await?, App::start().await?);
    let written = gateway::service("own", &[&own])
        + "[gateway.routes.own]\npath = \"/own/*\"\nservice = \"own\"\nstrip_prefix = \"/own\"\n";
    let fleet = Fleet::start(Parts::embedded(), &written).await?;
    let second = json!({"service": {"instances": [other.address.to_string()]},
        "routes": {"elsewhere": {"path": "/elsewhere/*"}}});
    fleet.put("own", &second).await?;
    let tie = json!({"service": {"instances": [other.address.to_string()]}, "routes": {
        "tie": {"path": "/own/*"}, "fine": {"path": "/fine/*", "strip_prefix": "/fine"},
    }});
    fleet.put("tie", &tie).await?;
    fleet.answers("/fine/hello", 200).await?;
    fleet.get("/own/hello").await?.expect(200)?;
    ensure!(
        other.seen("/own/hello").is_empty() && own.seen("/hello").len() == 1,
        "it gave way"
    );
    let log = &fleet.rig.worker.program;
    log.logged(&["coordinator, api: own is configured too", "that holds"])
        .await?;
    log.logged(&[
        "coordinator, api: tie is left out",
        "take the same requests",
    ])
    .await?;
    let metrics = fleet.rig.worker.url() + "/metrics";
    let metrics = patchbay_tests::browser::Browser::new()?
        .get(&metrics)
        .await?;
    ensure!(
        metrics.text().contains("patchbay_gateway_conflicts 2"),
        "{}",
        metrics.text()
    );

    let refused = json!({"service": {"instances": ["nowhere"], "balanse": "hash"}});
    let refused = fleet
        .call(Method::PUT, "/api/services/x", Some(&refused))
        .await?;
    let refused = refused.expect(400)?.json()?;
    ensure!(
        refused["data"]["errors"][0]["loc"] == json!(["service", "balanse"]),
        "{refused}"
    );
    let taken = json!({"routes": {"fine": {"path": "/else"}}});
    let taken = fleet
        .call(Method::PUT, "/api/services/x", Some(&taken))
        .await?;
    taken.expect(409)?;
    let url = format!("{}/api/services", fleet.rig.coordinator.url());
    patchbay_tests::browser::Browser::new()?
        .get(&url)
        .await?
        .expect(401)?;
    Ok(())
}

#[tokio::test]
async fn a_gateway_without_circuits_follows_too() -> Result<()> {
    let fleet = Fleet::start(Parts::embedded(), "").await?;
    let app = App::start().await?;
    fleet.put("shop", &service("shop", &[&app])).await?;
    let lines = format!(
        "coordinator = \"{}\"\n[secrets]\napi_secret = \"{}\"\n",
        fleet.rig.coordinator.url(),
        secrets::API
    );
    let alone = Gateway::start(&lines).await?;
    let answers = async |path: &str| {
        eventually("it is served", Duration::from_secs(10), async || {
            alone.get(path, &[]).await?.expect(200).map(drop)
        })
        .await
    };
    answers("/shop/hello").await?;
    fleet.put("till", &service("till", &[&app])).await?;
    answers("/till/hello").await
}

#[tokio::test]
async fn an_operator_does_it_from_a_shell() -> Result<()> {
    let fleet = Fleet::start(Parts::embedded(), "").await?;
    let app = App::start().await?;
    let config = fleet.rig.coordinator.config.display().to_string();
    let ctl = async |arguments: &[&str]| {
        let all = [&["ctl", "--config", config.as_str(), "services"], arguments].concat();
        run("patchbay-coordinator", &all).await
    };
    let file = fleet.rig.folder.path().join("shop.toml");
    let text = format!(
        "[service]\ninstances = [\"{}\"]\n[routes.shop]\npath = \"/shop/*\"\n\
         strip_prefix = \"/shop\"\n",
        app.address
    );
    std::fs::write(&file, &text)?;
    let file = file.display().to_string();
    let (code, said) = ctl(&["put", "shop", &file]).await?;
    ensure!(
        code == Some(0) && said.contains("shop is kept"),
        "{code:?}: {said}"
    );
    fleet.answers("/shop/hello", 200).await?;
    let (_, listed) = ctl(&[]).await?;
    ensure!(
        listed.contains("shop") && listed.contains("/shop/*"),
        "{listed}"
    );
    let (_, one) = ctl(&["get", "shop"]).await?;
    ensure!(
        one.contains(&format!("instances = [\"{}\"]", app.address)),
        "{one}"
    );
    std::fs::write(&file, text.replace("/shop/*", "shop/*"))?;
    let (code, refused) = ctl(&["put", "shop", &file]).await?;
    ensure!(
        code != Some(0) && refused.contains("routes.shop.path"),
        "{code:?}: {refused}"
    );
    let (code, said) = ctl(&["delete", "shop"]).await?;
    ensure!(
        code == Some(0) && said.contains("shop is gone"),
        "{code:?}: {said}"
    );
    fleet.answers("/shop/hello", 404).await?;
    let (_, audit) = ctl(&["audit", "--service", "shop"]).await?;
    ensure!(
        audit.contains("removed") && audit.contains("manager"),
        "{audit}"
    );
    Ok(())
}
