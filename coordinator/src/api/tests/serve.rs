//! The router behind a socket.

use pingora_core::apps::ServerApp as _;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::api::Api;

/// A connection to the API, and the task that serves it.
async fn connect(bench: &Bench) -> (TcpStream, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (served, _) = listener.accept().await.unwrap();
    let api = Arc::new(Api::new(bench.router.clone(), bench.drain.clone()));
    let task = tokio::spawn(async move {
        let (_sender, shutdown) = watch::channel(false);
        api.process_new(Box::new(L4Stream::from(served)), &shutdown)
            .await;
    });
    (client, task)
}

#[tokio::test]
async fn errors_have_the_length_they_say() {
    let bench = Bench::new().await;
    let (mut client, task) = connect(&bench).await;
    client
        .write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\nGET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    let (first, second) = all.split_once("HTTP/1.1 200 OK").unwrap();
    assert!(
        first.starts_with("HTTP/1.1 404") && first.contains("Unknown URL path."),
        "{first}"
    );
    assert!(second.ends_with("\"http://127.0.0.1:6030\"}"), "{second}");
    task.await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_idle_connections_and_lets_requests_end() {
    let bench = Bench::new().await;
    let (mut idle, idle_task) = connect(&bench).await;
    let (mut busy, busy_task) = connect(&bench).await;
    // The head is in, the body is not: a request in flight.
    let head = format!(
        "POST /v2/conf HTTP/1.1\r\nHost: x\r\nX-BackendAI-Token: {SECRET}\r\n\
         Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    );
    busy.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = [0; 25];
    busy.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"HTTP/1.1 100 Continue\r\n\r\n");

    bench.drain.begin();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    idle_task.await.unwrap();
    assert_eq!(bench.drain.in_flight(), 1);

    busy.write_all(b"{}").await.unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("Field required"),
        "{answer}"
    );
    busy_task.await.unwrap();
    assert_eq!(bench.drain.in_flight(), 0);
}
