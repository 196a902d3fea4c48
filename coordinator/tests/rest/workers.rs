//! Workers come, live and go.

use http::Method;
use serde_json::json;

use crate::desk::{Desk, port_worker, trusted};

#[tokio::test]
async fn a_worker_is_shown_as_the_contract_says() {
    let desk = Desk::open().await;
    let body = port_worker("w1", 20301, 20303);
    let answer = desk
        .call(Method::PUT, "/api/worker", Some(body))
        .await
        .expect(200);
    let keys: Vec<String> = answer.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        keys,
        [
            "authority",
            "frontend_mode",
            "protocol",
            "hostname",
            "tls_listen",
            "tls_advertised",
            "api_port",
            "port_range",
            "wildcard_domain",
            "wildcard_traffic_port",
            "filtered_apps_only",
            "traefik_last_used_marker_path",
            "accepted_traffics",
            "id",
            "created_at",
            "updated_at",
            "available_slots",
            "occupied_slots",
            "nodes",
            "slots",
            "generation",
        ]
    );
    let worker = answer.json();
    assert_eq!(worker["available_slots"], 3);
    assert_eq!(
        worker["slots"][2],
        json!({"frontend_mode": "port", "in_use": false, "port": 20303,
        "subdomain": null, "circuit_id": null})
    );
    let list = desk.get("/api/worker").await.expect(200).json();
    assert_eq!(list["workers"][0]["id"], worker["id"]);
    let read = desk
        .get(&format!("/api/worker/{}", worker["id"].as_str().unwrap()))
        .await;
    assert_eq!(read.expect(200).json()["nodes"], 1);
}

#[tokio::test]
async fn heartbeats_carry_the_generation() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let token = desk.token().await;
    desk.auth(&token, "&app=a&protocol=http").await.expect(200);
    let path = format!("/api/worker/{worker}");
    let theirs = desk
        .call(Method::PATCH, &path, None)
        .await
        .expect(200)
        .json();
    assert_eq!(theirs["generation"], 1);
    assert_eq!(
        theirs["slots"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|slot| slot["in_use"] == true)
            .count(),
        1
    );
    let mut request = trusted(Method::PATCH, &path, None);
    request
        .headers_mut()
        .insert("x-patchbay-node", "n1".parse().unwrap());
    let ours = desk.send(request).await.expect(200).json();
    assert_eq!(
        (&ours["generation"], &ours["slots"]),
        (&json!(1), &json!([]))
    );
    desk.call(
        Method::PATCH,
        "/api/worker/6f0a7a52-6c2e-4a56-8f3c-2f1a0f4c9d01",
        None,
    )
    .await
    .expect(404);
}

#[tokio::test]
async fn a_worker_that_left_gets_no_circuits() {
    let desk = Desk::open().await;
    let worker = desk.serving_worker(port_worker("w1", 20000, 20009)).await;
    let token = desk.token().await;
    let gone = desk
        .call(Method::DELETE, &format!("/api/worker/{worker}"), None)
        .await;
    assert_eq!(gone.expect(200).json(), json!({"success": true}));
    let answer = desk
        .auth(&token, "&app=a&protocol=http")
        .await
        .expect(503)
        .json();
    assert_eq!(answer["title"], "Worker not available.");
}

#[tokio::test]
async fn registrations_are_checked_field_by_field() {
    let desk = Desk::open().await;
    let mut body = port_worker("w1", 20000, 20009);
    body["api_port"] = json!(0);
    body["frontend_mode"] = json!("teleport");
    body.as_object_mut().unwrap().remove("hostname");
    let answer = desk
        .call(Method::PUT, "/api/worker", Some(body))
        .await
        .expect(400)
        .text;
    for field in ["api_port", "frontend_mode", "hostname"] {
        assert!(answer.contains(field), "{field} not in {answer}");
    }
    let mut body = port_worker("w1", 20000, 20009);
    body["port_range"] = json!([9, 8]);
    let answer = desk
        .call(Method::PUT, "/api/worker", Some(body))
        .await
        .expect(400);
    assert!(answer.text.contains("port_range"));
}

#[tokio::test]
async fn filters_draw_circuits_to_their_worker() {
    let desk = Desk::open().await;
    let mut body = port_worker("own", 20000, 20009);
    body["filtered_apps_only"] = json!(true);
    body["app_filters"] = json!([{"key": "session.access_key", "value": "AKEXAMPLE"}]);
    let own = desk.serving_worker(body).await;
    desk.serving_worker(port_worker("other", 21000, 21999))
        .await;
    let token = desk.token().await;
    desk.auth(&token, "&app=a&protocol=http").await.expect(200);
    let held = desk
        .get(&format!("/api/worker/{own}/circuits"))
        .await
        .json();
    assert_eq!(held["circuits"].as_array().unwrap().len(), 1);
}
