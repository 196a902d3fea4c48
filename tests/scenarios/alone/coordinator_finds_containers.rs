//! The coordinator watches Docker engines, and the gateways serve what it finds: only what is well,
//! within a second, and for as long as the containers are there.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::docker::Engine;
use patchbay_tests::eventually::eventually;
use patchbay_tests::fleet::{Fleet, service};
use patchbay_tests::rig::Parts;
use reqwest::Method;
use serde_json::Value;

use crate::report_figure;

const SHOP: [(&str, &str); 4] = [
    ("gateway.enable", "true"),
    ("gateway.service", "shop"),
    ("gateway.path", "/shop/*"),
    ("gateway.strip-prefix", "/shop"),
];
/// Longest a coordinator waits for a lease that its predecessor did not give back.
const LEASE: Duration = Duration::from_secs(10);

struct Docks {
    fleet: Fleet,
    one: Engine,
    two: Engine,
    _folder: tempfile::TempDir,
}

impl Docks {
    async fn start(parts: Parts) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let one = Engine::start(&folder.path().join("one.sock"))?;
        let two = Engine::start(&folder.path().join("two.sock"))?;
        let sections = format!(
            "[discovery.docker.one]\nendpoint = \"{}\"\n[discovery.docker.two]\n\
             endpoint = \"{}\"\n",
            one.endpoint(),
            two.endpoint()
        );
        let fleet = Fleet::start(parts.coordinator(&sections), "").await?;
        let docks = Self {
            fleet,
            one,
            two,
            _folder: folder,
        };
        // Events count only once the engines are being watched.
        eventually("they are watched", Duration::from_secs(10), async || {
            ensure!(
                docks.one.lists() > 0 && docks.two.lists() > 0,
                "no list was asked for"
            );
            Ok(())
        })
        .await?;
        Ok(docks)
    }

    async fn listed(&self) -> Result<Vec<Value>> {
        let answer = self.fleet.call(Method::GET, "/api/services", None).await?;
        let list = answer.expect(200)?.json()?;
        list["services"].as_array().cloned().context("no list")
    }
}

#[tokio::test]
async fn as_they_come_and_go_on_several_hosts() -> Result<()> {
    let docks = Docks::start(Parts::servers()).await?;
    let (first, second) = (App::start().await?, App::start().await?);
    let fleet = &docks.fleet;
    // Whoever holds the lease writes; that may take its time once.
    docks.one.run("shop-1", &first, &SHOP, "");
    fleet.answers("/shop/hello", 200).await?;
    docks.one.kill("shop-1");
    fleet.answers("/shop/hello", 404).await?;

    docks.one.run("shop-1", &first, &SHOP, "");
    let start = fleet.answers("/shop/hello", 200).await?;
    docks
        .two
        .run("shop-2", &second, &SHOP, " (health: starting)");
    for _ in 0..6 {
        fleet.get("/shop/early").await?.expect(200)?;
    }
    ensure!(
        second.seen("/early").is_empty(),
        "it has not said that it is well"
    );
    docks.two.say("shop-2", " (healthy)");
    let well = fleet.reaches(&second, "/shop/well").await?;
    let listed = docks.listed().await?;
    let origins: Vec<_> = listed.iter().map(|one| one["origin"].as_str()).collect();
    ensure!(
        origins == [Some("docker.one"), Some("docker.two")],
        "{listed:?}"
    );
    docks.one.kill("shop-1");
    docks.two.say("shop-2", " (unhealthy)");
    let unwell = fleet.answers("/shop/hello", 503).await?;
    docks.two.kill("shop-2");
    let end = fleet.answers("/shop/hello", 404).await?;
    report_figure(format_args!(
        "found by the coordinator: started {} ms, well {} ms, unwell {} ms, ended {} ms",
        start.as_millis(),
        well.as_millis(),
        unwell.as_millis(),
        end.as_millis()
    ));
    let longest = start.max(well).max(unwell).max(end);
    ensure!(longest < Duration::from_secs(1), "{longest:?}");
    Ok(())
}

#[tokio::test]
async fn what_was_found_survives_engine_and_coordinator() -> Result<()> {
    let mut docks = Docks::start(Parts::embedded()).await?;
    let (app, put) = (App::start().await?, App::start().await?);
    docks.one.run("shop-1", &app, &SHOP, "");
    docks.fleet.answers("/shop/hello", 200).await?;
    docks.one.fall();
    docks.fleet.rig.coordinator.program.kill().await?;
    docks.fleet.get("/shop/hello").await?.expect(200)?;
    docks.fleet.rig.coordinator.start_again().await?;
    // The other engine has spoken, this one cannot: what it said stays.
    let log = &docks.fleet.rig.coordinator.program;
    log.logged(&["docker one", "trying again"]).await?;
    ensure!(docks.listed().await?.len() == 1, "it was withdrawn");
    docks.fleet.get("/shop/hello").await?.expect(200)?;

    // What somebody puts comes before what was found, and goes before it.
    docks.fleet.put("shop", &service("shop", &[&put])).await?;
    docks.fleet.reaches(&put, "/shop/put").await?;
    docks.fleet.delete("shop").await?;
    docks.fleet.reaches(&app, "/shop/found").await?;
    let found = docks
        .fleet
        .call(Method::DELETE, "/api/services/shop", None)
        .await?;
    found.expect(409)?;

    docks.one.lose("shop-1");
    docks.one.resume()?;
    eventually(
        "it is withdrawn",
        LEASE + Duration::from_secs(15),
        async || docks.fleet.get("/shop/hello").await?.expect(404).map(drop),
    )
    .await
}
