//! The Manager brings a whole fleet of model services in one call, and all their routes in another.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::browser::Browser;
use patchbay_tests::rig::{Parts, Rig};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

/// Endpoints in a call, and routes of each.
const ENDPOINTS: usize = 1_000;
const ROUTES: usize = 10;

async fn call(rig: &Rig, method: Method, path: &str, body: &Value) -> Result<Vec<Value>> {
    let request = rig.opener.client().request(method, rig.opener.at(path));
    let answer = rig.opener.authorized(request).json(body).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status == 200, "{path} answers {status}: {text}");
    let answer: Value = serde_json::from_str(&text)?;
    let endpoints = answer["endpoints"].as_array().context("no endpoints")?;
    Ok(endpoints.clone())
}

fn opening(ids: &[Uuid]) -> Value {
    let item = |(number, id): (usize, &Uuid)| {
        json!({
            "deployment_id": id, "version": "v2", "service_name": format!("model-{number}"),
            "tags": {
                "session": {"user_uuid": id, "project_id": id, "domain_name": "default"},
                "endpoint": {"id": id, "runtime_variant": "vllm", "existing_url": null},
            },
            "open_to_public": true, "health_check": null,
        })
    };
    json!({"endpoints": ids.iter().enumerate().map(item).collect::<Vec<_>>()})
}

fn routes(rig: &Rig, ids: &[Uuid]) -> Value {
    let route = |_| {
        json!({"session_id": Uuid::new_v4(), "route_id": Uuid::new_v4(),
            "kernel_host": rig.app.address.ip(), "kernel_port": rig.app.address.port()})
    };
    let item =
        |id| json!({"deployment_id": id, "routes": (0..ROUTES).map(route).collect::<Vec<_>>()});
    json!({"endpoints": ids.iter().map(item).collect::<Vec<_>>()})
}

fn in_order(answers: &[Value], ids: &[Uuid]) -> Result<()> {
    let told = answers.iter().map(|one| one["deployment_id"].as_str());
    let asked: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    ensure!(
        told.eq(asked.iter().map(|id| Some(id.as_str()))),
        "not in the order of the call"
    );
    Ok(())
}

async fn are_served_in_order(parts: Parts, what: &str) -> Result<()> {
    let rig = Rig::start(parts.wildcard()).await?;
    let ids: Vec<Uuid> = (0..ENDPOINTS).map(|_| Uuid::new_v4()).collect();
    let begin = Instant::now();
    let opened = call(&rig, Method::POST, "/v2/endpoints/bulk", &opening(&ids)).await?;
    let opening_took = begin.elapsed();
    in_order(&opened, &ids)?;
    let again = call(&rig, Method::POST, "/v2/endpoints/bulk", &opening(&ids)).await?;
    ensure!(again == opened, "the second call has another answer");

    let path = "/v2/endpoints/bulk/routes/register";
    let begin = Instant::now();
    let registered = call(&rig, Method::POST, path, &routes(&rig, &ids)).await?;
    let routing_took = begin.elapsed();
    in_order(&registered, &ids)?;
    for one in &registered {
        let count = one["registered_route_ids"].as_array().map(Vec::len);
        ensure!(one["success"] == true && count == Some(ROUTES), "{one}");
    }
    crate::report_figure(format_args!(
        "{what}: {ENDPOINTS} endpoints in {opening_took:.1?}, {} routes in {routing_took:.1?}",
        ENDPOINTS * ROUTES
    ));
    // The first, one from the middle and the last are reached.
    for number in [0, ENDPOINTS / 2, ENDPOINTS - 1] {
        let url = opened[number]["url"].as_str().context("no url")?;
        patchbay_tests::eventually::eventually(
            "the endpoint is reached",
            std::time::Duration::from_secs(5),
            async || {
                Browser::new()?
                    .get(&format!("{url}hello"))
                    .await?
                    .expect(200)
            },
        )
        .await?;
    }
    let named = |id| json!({"deployment_id": id});
    let all = json!({"endpoints": ids.iter().map(named).collect::<Vec<_>>()});
    let removed = call(&rig, Method::DELETE, "/v2/endpoints/bulk", &all).await?;
    in_order(&removed, &ids)?;
    let workers = rig.opener.read("/workers").await?;
    ensure!(workers["workers"][0]["occupied_slots"] == 0, "{workers}");
    Ok(())
}

#[tokio::test]
async fn with_postgres_and_redis() -> Result<()> {
    are_served_in_order(Parts::servers(), "PostgreSQL and Redis").await
}

#[tokio::test]
async fn with_sqlite_and_the_stream() -> Result<()> {
    are_served_in_order(Parts::embedded(), "SQLite and the stream").await
}
