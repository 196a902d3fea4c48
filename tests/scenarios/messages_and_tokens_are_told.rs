//! What passes is told without being touched: the trace a request belongs to, the messages of a
//! WebSocket, the tokens of a model.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::SinkExt as _;
use patchbay_tests::browser::Browser;
use patchbay_tests::eventually::eventually;
use patchbay_tests::raw::{Connection, OneShotApp};
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::socket;
use reqwest::Method;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn a_trace_is_passed_on_and_logged() -> Result<()> {
    for fast_lane in [true, false] {
        let rig = Rig::start(Parts::embedded().fast_lane(fast_lane)).await?;
        let door = rig.open("jupyter").await?;
        let request = door.browser.request(Method::GET, &door.at("/hello"))?;
        let request = request.header("traceparent", TRACE);
        let request = request.header("tracestate", "vendor=1,other=2");
        door.browser.send(request).await?.expect(200)?;
        let headers = [("traceparent", TRACE), ("tracestate", "vendor=1")];
        socket::open(&door, "/ws/echo", &headers).await?;
        for (path, state) in [("/hello", "vendor=1,other=2"), ("/ws/echo", "vendor=1")] {
            let seen = rig.app.seen(path);
            let seen = seen.first().context("the app heard nothing")?;
            assert_eq!(seen.header("traceparent"), TRACE);
            assert_eq!(seen.header("tracestate"), state);
            let words = ["ACCESS", path, &format!("traceparent={TRACE}")];
            rig.worker.program.logged(&words).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn messages_have_ids_of_their_own_where_that_is_switched_on() -> Result<()> {
    let on = "[server]\nwebsocket_messages = true\n";
    let rig = Rig::start(Parts::embedded().worker(on)).await?;
    let door = rig.open("jupyter").await?;
    let headers = [("x-backend-request-id", "session-7")];
    let (mut socket, _) = socket::open(&door, "/ws/echo", &headers).await?;
    let long = Message::binary(patchbay_tests::app::download(100_000));
    for message in [Message::text("12345"), long] {
        socket.send(message.clone()).await?;
        assert_eq!(socket::next(&mut socket).await?, message);
    }
    for (direction, opcode, size) in [
        ("to-app", "text", "size=5"),
        ("to-client", "text", "size=5"),
        ("to-app", "binary", "size=100000"),
        ("to-client", "binary", "size=100000"),
    ] {
        let words = [
            "request_id=session-7-msg-",
            &format!("direction={direction}"),
            &format!("opcode={opcode}"),
            size,
        ];
        rig.worker.program.logged(&words).await?;
    }
    Ok(())
}

async fn last_access(rig: &Rig, door: &Door) -> Result<i64> {
    let path = format!("/api/circuit/{}/statistics", door.circuit);
    let told = rig.opener.read(&path).await?;
    told["last_access"].as_i64().context("no last_access")
}

#[tokio::test]
async fn only_messages_are_use_where_that_is_switched_on() -> Result<()> {
    let on = "[sync]\ndata_is_use = true\n";
    let rig = Rig::start(Parts::servers().worker(on)).await?;
    let door = rig.open("jupyter").await?;
    let (mut socket, _) = socket::open(&door, "/ws/echo", &[]).await?;
    let ping = Message::Ping("still there".into());
    // A mark is in milliseconds here, and written once a second.
    let quiet = async |socket: &mut socket::Socket| -> Result<()> {
        for _ in 0..8 {
            socket.send(ping.clone()).await?;
            assert!(matches!(socket::next(socket).await?, Message::Pong(_)));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    };
    eventually("the opening is use", Duration::from_secs(3), async || {
        ensure!(last_access(&rig, &door).await? > 0);
        Ok(())
    })
    .await?;
    let opened = last_access(&rig, &door).await?;
    quiet(&mut socket).await?;
    let pinged = last_access(&rig, &door).await?;
    ensure!(
        pinged < opened + 1_500,
        "pings are use: {opened}, then {pinged}"
    );
    socket.send(Message::text("work")).await?;
    assert_eq!(socket::next(&mut socket).await?, Message::text("work"));
    eventually("a message is use", Duration::from_secs(5), async || {
        ensure!(last_access(&rig, &door).await? > opened + 3_000);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_a_client_expects_and_where_it_stopped_reading_is_the_apps_business() -> Result<()> {
    for fast_lane in [true, false] {
        let rig = Rig::start(Parts::embedded().fast_lane(fast_lane)).await?;
        let door = rig.open("jupyter").await?;
        let mut client = Connection::open(door.address()?).await?;
        let (host, cookie) = (
            format!("Host: {}", door.host()),
            format!("Cookie: {}", door.cookie()),
        );
        let expect = "Expect: 100-continue";
        let head = [
            "POST /upload HTTP/1.1",
            &host,
            &cookie,
            expect,
            "Content-Length: 5",
        ];
        client.write_head(&head).await?;
        assert_eq!(client.read_head().await?.status(), "100");
        client.write("12345").await?;
        assert_eq!(client.read_head().await?.status(), "200");

        let request = door.browser.request(Method::GET, &door.at("/events/0"))?;
        let request = request.header("last-event-id", "41");
        door.browser.send(request).await?.expect(200)?;
        let seen = rig.app.seen("/events/0");
        let seen = seen.first().context("the app heard nothing")?;
        assert_eq!(seen.header("last-event-id"), "41");
    }
    Ok(())
}

/// A model that says three pieces of text and how many tokens they were.
async fn model() -> Result<OneShotApp<()>> {
    OneShotApp::start(|mut connection| async move {
        connection.read_head().await?;
        connection
            .write_head(&[
                "HTTP/1.1 200 OK",
                "Content-Type: text/event-stream; charset=utf-8",
                "Transfer-Encoding: chunked",
            ])
            .await?;
        let piece = |text: &str| json!({"choices": [{"delta": {"content": text}}]});
        let usage = json!({"choices": [], "usage": {"completion_tokens": 5}});
        for data in [piece("one"), piece(" two"), piece(" three"), usage] {
            let event = format!("data: {data}\n\n");
            // Not every server sends an event as one piece.
            let (first, second) = event.split_at(event.len() / 2);
            for part in [first, second] {
                let chunk = format!("{:x}\r\n{part}\r\n", part.len());
                connection.write(chunk).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        connection.write("0\r\n\r\n").await?;
        connection.closed().await
    })
    .await
}

async fn tokens_of_a_model(fast_lane: bool) -> Result<()> {
    let rig = Rig::start(Parts::embedded().fast_lane(fast_lane)).await?;
    let app = model().await?;
    let (id, url) = rig.opener.open_endpoint(app.address, true).await?;

    let browser = Browser::new()?;
    let at = format!("{url}/v1/chat/completions");
    let answer = eventually("the route is served", Duration::from_secs(2), async || {
        browser.get(&at).await?.expect(200)
    })
    .await?;
    ensure!(
        answer.text().matches("data: ").count() == 4,
        "{}",
        answer.text()
    );
    let at = format!("{}/metrics", rig.worker.url());
    eventually("tokens are counted", Duration::from_secs(2), async || {
        let text = browser.get(&at).await?.expect(200)?.text();
        let of_circuit = |name: &str| {
            let mut lines = text.lines();
            let line = lines.find(|line| {
                line.starts_with(&format!("patchbay_circuit_{name}{{"))
                    && line.contains(&id.to_string())
            });
            line.and_then(|line| line.rsplit_once(' '))
                .map(|(_, value)| value.to_owned())
                .with_context(|| format!("no {name}"))
        };
        for (name, value) in [
            ("token_streams_total", "1"),
            ("tokens_total", "5"),
            ("time_to_first_token_seconds_count", "1"),
            ("inter_token_gap_seconds_count", "2"),
        ] {
            assert_eq!(of_circuit(name)?, value, "{name}");
        }
        let opened = "patchbay_streams_opened_total{kind=\"events\"} 1";
        ensure!(text.contains(opened), "no stream of events is counted");
        let closed = "patchbay_streams_closed_total{kind=\"events\"} 1";
        ensure!(text.contains(closed), "it is still open");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn tokens_are_counted_by_the_lane() -> Result<()> {
    tokens_of_a_model(true).await
}

#[tokio::test]
async fn tokens_are_counted_without_the_lane() -> Result<()> {
    tokens_of_a_model(false).await
}

#[tokio::test]
async fn fewer_lines_and_more_series_where_that_is_asked_for() -> Result<()> {
    let asked = "[server]\naccess_log_every = 50\n[metrics]\nremote_label = true\n";
    for fast_lane in [true, false] {
        let rig = Rig::start(Parts::embedded().worker(asked).fast_lane(fast_lane)).await?;
        let door = rig.open("jupyter").await?;
        for _ in 0..10 {
            door.get("/hello").await?.expect(200)?;
        }
        door.get("/status/503").await?.expect(503)?;
        socket::open(&door, "/ws/echo", &[]).await?;
        let program = &rig.worker.program;
        program.logged(&["ACCESS", "path=/status/503"]).await?;
        program.logged(&["ACCESS", "path=/ws/echo"]).await?;
        let log = program.log();
        let lines = log.lines().filter(|line| line.contains("path=/hello"));
        assert_eq!(lines.count(), 1, "{log}");
        let at = format!("{}/metrics", rig.worker.url());
        let text = Browser::new()?.get(&at).await?.expect(200)?.text();
        let client = "appproxy_requests_received_http_total{remote=\"127.0.0.1\"} 12";
        ensure!(text.contains(client), "no series of the client");
        let name = "appproxy_upstream_response_received_http_total";
        let kernel = format!("{name}{{remote=\"{}\"}} ", rig.app.address);
        ensure!(text.contains(&kernel), "no series of the kernel");
    }
    Ok(())
}
