//! A kernel dies and comes back: the operator sees which route it was, since when and why, and the
//! owner's wish for checks reaches the worker with the circuit.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::coordinator::Coordinator;
use patchbay_tests::eventually::eventually;
use patchbay_tests::opener::Opener;
use patchbay_tests::redis::RedisServer;
use patchbay_tests::rig::{Parts, Rig};
use serde_json::{Value, json};

/// Longest until a change of a route's state is told.
const TOLD: Duration = Duration::from_secs(15);

fn check(expected: u16) -> Value {
    json!({"enable": true, "interval": 0.2, "path": "/hello", "max_retries": 2,
        "max_wait_time": 2.0, "expected_status_code": expected, "initial_delay": 0.0})
}

async fn send(opener: &Opener, method: reqwest::Method, path: &str, body: Value) -> Result<Value> {
    let request = opener.client().request(method, opener.at(path)).json(&body);
    let answer = opener.authorized(request).send().await?;
    ensure!(answer.status() == 200, "{path}: {}", answer.text().await?);
    Ok(answer.json().await?)
}

/// Waits until the circuit's only route is so; answers with what is said of it.
async fn becomes(opener: &Opener, circuit: &str, state: &str, why: &str) -> Result<Value> {
    let path = format!("/health/circuits/{circuit}");
    eventually(&format!("the route is {state}"), TOLD, async || {
        let told = opener.read(&path).await?;
        let route = &told["routes"][0];
        let reason = route["last_error"].as_str().unwrap_or_default();
        ensure!(
            told["status"] == state && route["status"] == state,
            "{told}"
        );
        ensure!(reason.contains(why), "{told}");
        Ok(route.clone())
    })
    .await
}

#[tokio::test]
async fn a_dead_kernel_is_named_and_its_return_is_seen() -> Result<()> {
    let rig = Rig::start(Parts::servers()).await?;
    let redis = rig.redis.as_ref().map(RedisServer::section);
    let redis = redis.unwrap_or_default();
    let folder = rig.folder.path();
    let second = Coordinator::start(folder, "second", &rig.store, &redis, "").await?;
    let (first, second) = (&rig.opener, &Opener::new(&second.url())?);

    let app = App::start().await?;
    let address = app.address;
    let (id, _) = first.endpoint(&[address], check(200)).await?;
    let listed = first.read("/health/endpoints").await?;
    let told = &listed["endpoints"][0];
    ensure!(told["endpoint_id"] == json!(id), "{listed}");
    ensure!(told["health_check"]["path"] == "/hello", "{listed}");
    let circuit = told["circuit_id"]
        .as_str()
        .context("no circuit")?
        .to_owned();
    becomes(first, &circuit, "healthy", "").await?;

    drop(app);
    let route = becomes(first, &circuit, "unhealthy", "health check failed").await?;
    ensure!(route["since"].is_string(), "{route}");
    ensure!(route["nodes"][0]["status"] == "unhealthy", "{route}");
    // Every coordinator of the database says the same.
    becomes(second, &circuit, "unhealthy", "health check failed").await?;
    let summary = second.read("/health/summary").await?;
    ensure!(summary["circuits"]["unhealthy"] == 1, "{summary}");
    ensure!(summary["workers"]["reporting"] == 1, "{summary}");
    let beside = second
        .read(&format!("/api/circuit/{circuit}?health=1"))
        .await?;
    ensure!(beside["health"]["status"] == "unhealthy", "{beside}");
    let bare = second.read(&format!("/api/circuit/{circuit}")).await?;
    ensure!(bare.get("health").is_none(), "{bare}");

    let _app = App::start_at(address).await?;
    becomes(first, &circuit, "healthy", "").await?;

    let path = format!("/v2/endpoints/{id}/health-check");
    let wish = json!({"health_check": check(418)});
    send(first, reqwest::Method::PUT, &path, wish).await?;
    becomes(second, &circuit, "unhealthy", "status 200 instead of 418").await?;
    let wish = json!({"health_check": null});
    send(second, reqwest::Method::PUT, &path, wish).await?;
    Ok(())
}
