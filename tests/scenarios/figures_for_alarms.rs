//! `/metrics` of the coordinator shows what an operator sets alarms on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::eventually::eventually;
use patchbay_tests::rig::{Parts, Rig};

async fn scrape(rig: &Rig) -> Result<String> {
    let url = format!("{}/metrics", rig.coordinator.url());
    let answer = rig.opener.client().get(url).send().await?;
    ensure!(answer.status() == 200, "{}", answer.status());
    Ok(answer.text().await?)
}

fn value(text: &str, series: &str) -> Result<f64> {
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let found = found.with_context(|| format!("no {series} in:\n{text}"))?;
    Ok(found.parse()?)
}

#[tokio::test]
async fn a_pool_that_runs_dry_is_seen() -> Result<()> {
    let rig = Rig::start(Parts::embedded().ports(2)).await?;
    let before = scrape(&rig).await?;
    let free = "patchbay_coordinator_slots_free{worker=\"worker-1\"}";
    ensure!(value(&before, free)? == 2.0, "{before}");

    rig.open_many(2).await?;
    let text = scrape(&rig).await?;
    // By the incumbent's name.
    ensure!(value(&text, "backendai_memory_used_rss")? > 1e6, "{text}");
    let expected = [
        (free, 0.0),
        ("patchbay_coordinator_slots_used{worker=\"worker-1\"}", 2.0),
        ("patchbay_coordinator_workers{status=\"ALIVE\"}", 1.0),
        ("patchbay_coordinator_workers{status=\"LOST\"}", 0.0),
        (
            "patchbay_coordinator_open_circuits{mode=\"interactive\",protocol=\"http\"}",
            2.0,
        ),
        (
            "patchbay_coordinator_open_circuits{mode=\"inference\",protocol=\"http\"}",
            0.0,
        ),
        (
            "patchbay_coordinator_open_circuits{mode=\"interactive\",protocol=\"tcp\"}",
            0.0,
        ),
        ("patchbay_coordinator_routes_unhealthy", 0.0),
        (
            "patchbay_coordinator_acknowledgements_total{outcome=\"served\"}",
            2.0,
        ),
        (
            "patchbay_coordinator_acknowledgements_total{outcome=\"given_up\"}",
            0.0,
        ),
        ("patchbay_coordinator_acknowledgement_seconds_count", 2.0),
        (
            "patchbay_coordinator_store_seconds_count{operation=\"opening a circuit\"}",
            2.0,
        ),
    ];
    for (series, wanted) in expected {
        let found = value(&text, series)?;
        ensure!(found == wanted, "{series} is {found}, not {wanted}");
    }
    let published = "patchbay_coordinator_publish_seconds_count{bus=\"stream\"}";
    ensure!(value(&text, published)? >= 2.0, "{text}");
    eventually(
        "all events are noted as published",
        Duration::from_secs(5),
        async || {
            let waiting = value(&scrape(&rig).await?, "patchbay_coordinator_outbox_events")?;
            ensure!(waiting == 0.0, "{waiting} wait");
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn the_manager_finds_the_metrics() -> Result<()> {
    let mut rig = Rig::start(Parts::servers()).await?;
    let mut connection = rig.redis()?.connect(0).await?;
    let pattern = "service_discovery.appproxy-coordinator.*";
    let record = eventually("the record is there", Duration::from_secs(5), async || {
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(pattern)
            .query_async(&mut connection.clone())
            .await?;
        keys.into_iter().next().context("no record")
    })
    .await?;
    let endpoint: String = redis::cmd("HGET")
        .arg(&[record.as_str(), "endpoint"])
        .query_async(&mut connection)
        .await?;
    let endpoint: serde_json::Value = serde_json::from_str(&endpoint)?;
    let place = endpoint["prometheus_address"]
        .as_str()
        .context("no address")?;
    let url = format!("http://{place}/metrics");
    let answer = rig.opener.client().get(url).send().await?;
    ensure!(answer.status() == 200, "{endpoint}: {}", answer.status());
    let lasts: i64 = redis::cmd("TTL")
        .arg(&record)
        .query_async(&mut connection)
        .await?;
    ensure!((1..=180).contains(&lasts), "{lasts} s");
    Ok(())
}
