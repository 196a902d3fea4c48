//! What became of circuits, as the API tells it.

use http::Method;
use serde_json::{Value, json};

use crate::desk::{Desk, SESSION, bare, port_worker};

async fn entries(desk: &Desk, query: &str) -> Vec<Value> {
    let page = desk.get(&format!("/api/audit{query}")).await;
    page.expect(200).json()["entries"]
        .as_array()
        .unwrap()
        .clone()
}

fn column<'a>(entries: &'a [Value], key: &str) -> Vec<&'a str> {
    let text = |entry: &'a Value| entry[key].as_str().unwrap_or("");
    entries.iter().map(text).collect()
}

async fn open(desk: &Desk, app: &str) -> String {
    let token = desk.token().await;
    let more = format!("&app={app}&protocol=http");
    desk.auth(&token, &more).await.expect(200);
    let opened = entries(desk, "?action=opened&limit=1").await;
    assert_eq!(opened[0]["app"], app);
    opened[0]["circuit"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_change_of_a_circuit_is_told() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let (first, second) = (open(&desk, "jupyter").await, open(&desk, "vscode").await);
    let path = format!("/api/circuit/{first}");
    desk.call(Method::DELETE, &path, None).await.expect(200);

    let all = entries(&desk, "").await;
    assert_eq!(column(&all, "action"), ["closed", "opened", "opened"]);
    assert_eq!(column(&all, "actor"), ["manager", "session", "session"]);
    assert_eq!(column(&all, "reason"), ["requested"; 3]);
    let closed = &all[0];
    assert_eq!(closed["circuit"], first);
    assert_eq!(closed["session_ids"], json!([SESSION]));
    assert_eq!(closed["worker"], worker.to_string());
    assert_eq!(closed["authority"], "w1");
    assert_eq!(closed["slot"], "20000");
    assert!(closed["request_id"].as_str().is_some_and(|id| id.len() > 8));

    let of_second = entries(&desk, &format!("?circuit={second}")).await;
    assert_eq!(column(&of_second, "app"), ["vscode"]);
    assert_eq!(entries(&desk, "?action=closed").await.len(), 1);
    assert_eq!(
        entries(&desk, &format!("?session={SESSION}")).await.len(),
        3
    );
    assert_eq!(entries(&desk, "?worker=w1").await.len(), 3);
    assert_eq!(entries(&desk, &format!("?worker={second}")).await.len(), 0);
    let at = closed["at"].as_str().unwrap();
    assert_eq!(entries(&desk, &format!("?since={at}")).await.len(), 1);
    assert_eq!(entries(&desk, &format!("?until={at}")).await.len(), 2);
}

#[tokio::test]
async fn pages_follow_one_another() {
    let desk = Desk::open().await;
    desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    for app in ["a", "b", "c"] {
        open(&desk, app).await;
    }
    let mut cursor = String::new();
    let mut seen = Vec::new();
    loop {
        let path = format!("/api/audit?limit=2{cursor}");
        let page = desk.get(&path).await.expect(200).json();
        let entries = page["entries"].as_array().unwrap();
        seen.extend(entries.iter().map(|entry| entry["app"].clone()));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ["c", "b", "a"]);
}

#[tokio::test]
async fn an_opening_that_is_undone_says_why() {
    let desk = Desk::patient(std::time::Duration::from_millis(50)).await;
    desk.silent_worker(port_worker("w1", 20000, 20009)).await;
    let token = desk.token().await;
    desk.auth(&token, "&app=jupyter&protocol=http")
        .await
        .expect(503);
    let all = entries(&desk, "").await;
    assert_eq!(column(&all, "reason"), ["not-acknowledged", "requested"]);
    assert_eq!(column(&all, "actor"), ["coordinator", "session"]);
    assert_eq!(all[0]["request_id"], all[1]["request_id"]);
}

#[tokio::test]
async fn mistakes_and_strangers_are_refused() {
    let desk = Desk::open().await;
    for query in [
        "circuit=x",
        "session=x",
        "action=eaten",
        "since=noon",
        "until=noon",
        "limit=0",
        "limit=1001",
        "cursor=x",
    ] {
        let answer = desk.get(&format!("/api/audit?{query}")).await.expect(400);
        let field = query.split('=').next().unwrap();
        assert_eq!(answer.json()["data"]["errors"][0]["loc"], json!([field]));
    }
    desk.get("/api/audit?worker=nobody").await.expect(404);
    let stranger = bare(Method::GET, "/api/audit").body(axum::body::Body::empty());
    desk.send(stranger.unwrap()).await.expect(401);
}
