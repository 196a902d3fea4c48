//! WebSocket answers.

use axum::extract::Path;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use http::HeaderMap;
use serde_json::json;

/// Sends back every message until the client closes.
pub(super) async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket: WebSocket| {
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Text(_) | Message::Binary(_))
                && socket.send(message).await.is_err()
            {
                break;
            }
        }
    })
}

/// Speaks in the moment of the upgrade, then echoes.
pub(super) async fn speaks_first(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket: WebSocket| {
        if socket.send("the app speaks first".into()).await.is_ok() {
            while let Some(Ok(message)) = socket.recv().await {
                if socket.send(message).await.is_err() {
                    break;
                }
            }
        }
    })
}

/// Closes with a code and a reason after the first message.
pub(super) async fn closes(upgrade: WebSocketUpgrade, Path(code): Path<u16>) -> Response {
    upgrade.on_upgrade(async move |mut socket: WebSocket| {
        socket.recv().await;
        let frame = CloseFrame {
            code,
            reason: "the app has had enough".into(),
        };
        // The client may be gone; the scenario sees what arrives.
        let _ = socket.send(Message::Close(Some(frame))).await;
        while let Some(Ok(_)) = socket.recv().await {}
    })
}

/// Picks the sub-protocol `chat.v2` and tells the headers of its handshake.
pub(super) async fn tells_its_head(upgrade: WebSocketUpgrade, headers: HeaderMap) -> Response {
    let headers: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        })
        .collect();
    let told = json!({ "headers": headers }).to_string();
    upgrade
        .protocols(["chat.v2"])
        .on_upgrade(async move |mut socket: WebSocket| {
            if socket.send(told.into()).await.is_ok() {
                while let Some(Ok(_)) = socket.recv().await {}
            }
        })
}

/// Says nothing, and stays until the client's side of the connection has ended.
pub(super) async fn held(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket: WebSocket| while let Some(Ok(_)) = socket.recv().await {})
}
