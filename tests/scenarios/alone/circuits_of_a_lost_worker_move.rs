//! A worker dies without a word. Its circuits answer through another worker of the same domain; those
//! that no other can serve say so, and work again when their worker is back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::browser::Browser;
use patchbay_tests::eventually::eventually;
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::worker::{DOMAIN, Frontend, Plan, Worker};
use reqwest::Url;
use serde_json::Value;

/// Silence after which a worker is lost.
const TIMEOUT: &str = "worker_heartbeat_timeout = 3.0";
/// That, the two seconds after it, and one for a machine with much to do.
const MOVED: Duration = Duration::from_secs(6);

/// The door's app, through another worker's listener: what a balancer in front of both does.
async fn through(worker: &Worker, door: &Door) -> Result<()> {
    let mut url = Url::parse(&door.at("/hello"))?;
    ensure!(url.set_port(Some(worker.slots.first())).is_ok());
    door.browser.get(url.as_str()).await?.expect(200)?;
    Ok(())
}

async fn audit(rig: &Rig, query: &str) -> Result<Vec<Value>> {
    let page = rig.opener.read(&format!("/api/audit?{query}")).await?;
    let entries = page["entries"].as_array().context("no entries")?;
    Ok(entries.clone())
}

async fn circuits_go_to_the_other_worker(parts: Parts) -> Result<()> {
    let mut rig = Rig::start(parts).await?;
    rig.coordinator.start_with(TIMEOUT).await?;
    let mut plan = Plan::new(Frontend::Wildcard, rig.coordinator.url());
    plan.name = "worker-2".into();
    plan.redis = rig.redis.as_ref().map(|r| r.section()).unwrap_or_default();
    let second = Worker::start(rig.folder.path(), &plan).await?;
    let doors = rig.open_many(6).await?;
    let first_port = rig.worker.slots.first().to_string();
    let (on_first, on_second): (Vec<&Door>, Vec<&Door>) = doors
        .iter()
        .partition(|door| door.url.ends_with(&first_port));
    assert_eq!((on_first.len(), on_second.len()), (3, 3), "shared out");

    rig.worker.program.kill().await?;
    let begin = Instant::now();
    eventually("all answer through the other worker", MOVED, async || {
        for door in &doors {
            through(&second, door).await?;
        }
        Ok(())
    })
    .await?;
    crate::report_figure(format_args!(
        "circuits of a killed worker answer elsewhere after {:.1?} (3 s of them to notice)",
        begin.elapsed()
    ));
    let moved = audit(&rig, "action=moved").await?;
    assert_eq!(moved.len(), 3, "{moved:?}");
    for entry in &moved {
        assert_eq!(entry["from_authority"], "worker-1");
        assert_eq!(entry["authority"], "worker-2");
        assert_eq!(entry["reason"], "worker-lost");
        assert_eq!(entry["actor"], "coordinator");
    }
    for door in &doors {
        let circuit = rig.opener.circuit(door.circuit).await?;
        assert_eq!(circuit["available"], true, "{circuit}");
    }

    // Back again, the first one holds nothing, and everything goes on.
    rig.worker.start_again().await?;
    for door in &on_first {
        door.get("/hello").await?.expect(400)?;
        through(&second, door).await?;
    }
    rig.opener.close(on_first[0].circuit).await?;
    eventually("it is closed", Duration::from_secs(2), async || {
        ensure!(through(&second, on_first[0]).await.is_err());
        Ok(())
    })
    .await?;
    rig.changes_take_effect("after the worker's return").await
}

#[tokio::test]
async fn with_sqlite_and_the_stream() -> Result<()> {
    circuits_go_to_the_other_worker(Parts::embedded().wildcard()).await
}

#[tokio::test]
async fn with_postgres_and_redis() -> Result<()> {
    circuits_go_to_the_other_worker(Parts::servers().wildcard()).await
}

#[tokio::test]
async fn what_cannot_move_comes_back_with_its_worker() -> Result<()> {
    let mut rig = Rig::start(Parts::embedded()).await?;
    rig.coordinator.start_with(TIMEOUT).await?;
    let door = rig.open("jupyter").await?;
    let gauge = async |value: u8| {
        let metrics = rig.opener.client().get(rig.opener.at("/metrics")).send();
        let metrics = metrics.await?.text().await?;
        let line =
            format!("patchbay_coordinator_circuits_unavailable{{worker=\"worker-1\"}} {value}");
        ensure!(metrics.contains(&line), "{metrics}");
        Ok(())
    };
    gauge(0).await?;
    rig.worker.program.kill().await?;
    eventually("it is said to be unavailable", MOVED, async || {
        let circuit = rig.opener.circuit(door.circuit).await?;
        ensure!(circuit["available"] == false, "{circuit}");
        gauge(1).await
    })
    .await?;
    let said = ["unavailable until their worker returns", "worker=worker-1"];
    rig.coordinator.program.logged(&said).await?;

    rig.worker.start_again().await?;
    door.get("/hello").await?.expect(200)?;
    let circuit = rig.opener.circuit(door.circuit).await?;
    assert_eq!(circuit["available"], true, "{circuit}");
    gauge(0).await
}

#[tokio::test]
async fn a_killed_node_is_no_phantom() -> Result<()> {
    let mut rig = Rig::start(Parts::embedded().wildcard()).await?;
    rig.coordinator.start_with(TIMEOUT).await?;
    // Another node of the same name, as on another machine.
    let folder = tempfile::tempdir()?;
    let mut plan = Plan::new(Frontend::Wildcard, rig.coordinator.url());
    plan.settings = "id = \"the-other-node\"".into();
    let mut node = Worker::start(folder.path(), &plan).await?;
    let worker = async || -> Result<Value> {
        let workers = rig.opener.read("/api/worker").await?;
        Ok(workers["workers"][0].clone())
    };
    assert_eq!(worker().await?["nodes"], 2);
    node.program.kill().await?;
    eventually("the dead node no longer counts", MOVED, async || {
        let worker = worker().await?;
        ensure!(worker["nodes"] == 1, "{worker}");
        Ok(())
    })
    .await?;
    // The setup link leads to the node that registered last; what needs no permit needs no link.
    let order = rig.order("jupyter").with("open_to_public", true);
    let opened = rig.opener.open(&order.with("subdomain", "notes")).await?;
    let port = rig.worker.slots.first();
    let url = format!("http://notes{DOMAIN}:{port}/hello");
    Browser::new()?.get(&url).await?.expect(200)?;
    rig.opener.close(opened.circuit).await
}
