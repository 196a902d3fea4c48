//! The event stream as a worker reads it.

use http::Method;
use serde_json::json;

use crate::desk::{Desk, port_worker};

#[tokio::test]
async fn a_reader_that_returns_misses_nothing() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let token = desk.token().await;
    for app in ["a", "b", "c"] {
        desk.auth(&token, &format!("&app={app}&protocol=http"))
            .await
            .expect(200);
    }
    let mut feed = desk.listen(worker, Some(1)).await;
    let hello = feed.next().await;
    assert_eq!(
        (hello.name.as_str(), hello.id, hello.data),
        ("hello", None, json!({"generation": 3}))
    );
    for (id, app) in [(2, "b"), (3, "c")] {
        let event = feed.next().await;
        assert_eq!(
            (event.name.as_str(), event.id),
            ("appproxy_circuit_created_event", Some(id))
        );
        assert_eq!(event.data["circuits"][0]["app"], app);
        assert_eq!(event.data["target_worker_authority"], "w1");
        assert!(event.data["request_id"].is_string());
    }
}

#[tokio::test]
async fn a_place_the_log_does_not_have_is_told() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let token = desk.token().await;
    desk.auth(&token, "&app=a&protocol=http").await.expect(200);
    // A generation that this database has not reached: the reader knew another database.
    let mut feed = desk.listen(worker, Some(40)).await;
    assert_eq!(feed.next().await.name, "hello");
    let resync = feed.next().await;
    assert_eq!(
        (resync.name.as_str(), resync.data),
        ("resync", json!({"generation": 1}))
    );
    desk.auth(&token, "&app=b&protocol=http").await.expect(200);
    assert_eq!(feed.next().await.id, Some(2));
}

#[tokio::test]
async fn a_shared_circuit_is_told_again_without_moving_the_place() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let token = desk.token().await;
    desk.auth(&token, "&app=a&protocol=http").await.expect(200);
    let mut feed = desk.listen(worker, None).await;
    assert_eq!(feed.next().await.name, "hello");
    desk.auth(&token, "&app=a&protocol=http").await.expect(200);
    let again = feed.next().await;
    assert_eq!(
        (again.name.as_str(), again.id),
        ("appproxy_circuit_created_event", None)
    );
}

#[tokio::test]
async fn streams_end_when_the_process_drains() {
    let desk = Desk::open().await;
    let worker = desk.silent_worker(port_worker("w1", 20000, 20009)).await;
    let mut feed = desk.listen(worker, None).await;
    assert_eq!(feed.next().await.name, "hello");
    desk.drain.begin();
    assert!(feed.next_or_end().await.is_none());
}

#[tokio::test]
async fn acknowledgements_cannot_run_ahead() {
    let desk = Desk::open().await;
    let worker = desk.silent_worker(port_worker("w1", 20000, 20009)).await;
    let path = format!("/api/worker/{worker}/acknowledgements");
    desk.post(&path, json!({"generation": 0})).await.expect(200);
    desk.post(&path, json!({"generation": 7})).await.expect(400);
    desk.post(&path, json!({"generation": -1}))
        .await
        .expect(400);
    desk.call(Method::POST, &path, None).await.expect(400);
}
