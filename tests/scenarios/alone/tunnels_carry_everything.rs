//! Through an agent's one connection everything passes that passes without it: bodies of any
//! size, events one by one, WebSockets, bytes; and nobody gets what is another's.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::{SinkExt as _, StreamExt as _, stream};
use patchbay_tests::app::{App, digest, download};
use patchbay_tests::eventually::eventually;
use patchbay_tests::gateway::Gateway;
use patchbay_tests::lending::{Agent, lend, peak_memory, section, tunnel};
use patchbay_tests::ports::Ports;
use patchbay_tests::socket::{self, Handshake};
use reqwest::Client;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// Bytes of a very large body.
const HUGE: usize = 512 << 20;
/// Most memory either program may take.
const MEMORY: u64 = 64 << 20;

#[tokio::test]
async fn requests_events_and_sockets_pass() -> Result<()> {
    let (gateway, app) = (Gateway::start(&section("")).await?, App::start().await?);
    let _agent = Agent::start(&gateway, "laptop", &[&lend("web", &app)]).await?;
    let id = [
        ("x-backend-request-id", "by-mux-1"),
        ("te", "gzip"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
    ];
    let answer = gateway.get("/t/web/hello?x=%20y", &id).await?.expect(200)?;
    assert_eq!(answer.text(), "hello from the app");
    let seen = app.seen("/hello").pop().context("it reached the app")?;
    assert_eq!(seen.uri.to_string(), "/hello?x=%20y");
    assert_eq!(seen.header("x-backend-request-id"), "by-mux-1");
    assert_eq!(seen.header("host"), gateway.address());
    assert_eq!((seen.header("te"), seen.header("x-hop")), ("", ""));
    let base = format!("http://{}/t/web", gateway.address());
    let client = Client::new();
    let body = download(3 << 20);
    let upload = client.post(format!("{base}/upload")).body(body.clone());
    let told: Value = upload.send().await?.json().await?;
    assert_eq!(told["sha256"], digest(&body).as_str());
    let answer = gateway
        .get("/t/web/download/3000000", &[])
        .await?
        .expect(200)?;
    assert_eq!(digest(&answer.body), digest(&download(3_000_000)));
    let mut events = client.get(format!("{base}/events/10")).send().await?;
    for number in 0..10 {
        app.release(1);
        let event = events.chunk().await?.context("the stream ended")?;
        assert_eq!(event, format!("data: event {number}\n\n"));
    }
    assert_eq!(gateway.upgrade("/t/web/ws/first", &[]).await?, 101);
    let url = format!("ws://{}/t/web/ws/echo", gateway.address());
    let opened = socket::handshake_at(&url, gateway.address().parse()?, &[]).await?;
    let Handshake::Open(mut socket, _) = opened else {
        anyhow::bail!("the handshake was refused");
    };
    for number in 0..100 {
        let text = format!("message {number} ").repeat(number * 20 + 1);
        socket.send(Message::text(text.clone())).await?;
        assert_eq!(socket::next(&mut socket).await?.to_text()?, text);
    }
    // What is down is said to be down.
    let facts = tunnel(&gateway, "web").await?;
    assert_eq!(facts["errors"], 0, "{facts}");
    drop(app);
    eventually(
        "its connections are refused",
        Duration::from_secs(10),
        async || {
            let answer = gateway.get("/t/web/hello", &[]).await?;
            ensure!(answer.status == 503, "{}", answer.status);
            Ok(())
        },
    )
    .await?;
    assert!(gateway.upgrade("/t/web/ws/first", &[]).await? >= 502);
    Ok(())
}

#[tokio::test]
async fn nobody_gets_anothers_answer() -> Result<()> {
    let (gateway, app) = (Gateway::start(&section("")).await?, App::start().await?);
    let _agent = Agent::start(&gateway, "laptop", &[&lend("web", &app)]).await?;
    // A slow consumer sits on the same connection all the while.
    let mut slow = TcpStream::connect(gateway.address()).await?;
    slow.write_all(b"GET /t/web/download/100000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await?;
    let client = Client::new();
    let base = format!("http://{}/t/web", gateway.address());
    let requests = (0..1_000).map(|number| {
        let (client, base) = (client.clone(), base.clone());
        async move {
            let tag = format!("tag-{number}-{}", "x".repeat(number * 7 % 5_000));
            let url = format!("{base}/echo/{number}");
            let answer = client.post(url).body(tag.clone()).send().await?;
            let status = answer.status();
            let text = answer.text().await?;
            ensure!(status == 200, "{number} got {status}: {text}");
            let told: Value = serde_json::from_str(&text)?;
            ensure!(
                told["body"] == tag.as_str(),
                "{number} got another's body: {text}"
            );
            ensure!(
                told["target"] == format!("/echo/{number}"),
                "{number} got another's path"
            );
            Ok(())
        }
    });
    let all = stream::iter(requests.map(tokio::spawn)).buffer_unordered(1_000);
    let outcomes: Vec<_> = timeout(Duration::from_secs(120), all.collect()).await?;
    for outcome in outcomes {
        outcome??;
    }
    let mut first = vec![0; 1 << 16];
    ensure!(slow.read(&mut first).await? > 0, "the slow one was cut off");
    Ok(())
}

/// Serves downloads of zeros, and counts uploads; nothing is kept.
async fn ocean() -> Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(tide(stream));
        }
    });
    Ok(address)
}

async fn tide(mut stream: TcpStream) -> Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await?;
        head.push(byte[0]);
    }
    let piece = vec![0; 1 << 16];
    let mut count = 0;
    if head.starts_with(b"POST") {
        let mut buffer = vec![0; 1 << 16];
        while count < HUGE {
            count += stream.read(&mut buffer).await?;
        }
        let text = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{count}",
            count.to_string().len()
        );
        stream.write_all(text.as_bytes()).await?;
    } else {
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {HUGE}\r\n\r\n");
        stream.write_all(text.as_bytes()).await?;
        while count < HUGE {
            stream.write_all(&piece).await?;
            count += piece.len();
        }
    }
    Ok(())
}

#[tokio::test]
async fn bodies_of_any_size_pass_in_little_memory() -> Result<()> {
    let gateway = Gateway::start(&section("")).await?;
    let lent = format!("sea=http://{}", ocean().await?);
    let agent = Agent::start(&gateway, "laptop", &[&lent]).await?;
    let url = format!("http://{}/t/sea/", gateway.address());
    let client = Client::new();
    let mut answer = client.get(&url).send().await?;
    let mut count = 0;
    while let Some(piece) = answer.chunk().await? {
        count += piece.len();
    }
    assert_eq!(count, HUGE);
    let pieces = (0..HUGE >> 16).map(|_| Ok::<_, std::io::Error>(vec![0; 1 << 16]));
    let upload = client
        .post(&url)
        .header("content-length", HUGE)
        .body(reqwest::Body::wrap_stream(stream::iter(pieces)));
    assert_eq!(upload.send().await?.text().await?, HUGE.to_string());
    for (name, program) in [("gateway", &gateway.program), ("agent", &agent.program)] {
        let peak = peak_memory(program)?;
        crate::report_figure(format_args!("{name}: {} MiB at most", peak >> 20));
        ensure!(peak < MEMORY, "the {name} took {} MiB", peak >> 20);
    }
    Ok(())
}

#[tokio::test]
async fn a_port_leads_to_a_tcp_service() -> Result<()> {
    let ports = Ports::reserve(1)?;
    let tcp = format!(
        "\n[[tunnels.tcp]]\nbind = \"127.0.0.1:{}\"\ntunnel = \"shell\"\n",
        ports.first()
    );
    let gateway = Gateway::start(&(section("") + &tcp)).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let lent = format!("shell=tcp://{}", listener.local_addr()?);
    let _agent = Agent::start(&gateway, "laptop", &[&lent]).await?;
    let mut client = TcpStream::connect(("127.0.0.1", ports.first())).await?;
    client.write_all(b"question").await?;
    client.shutdown().await?;
    let (mut service, _) = listener.accept().await?;
    let mut question = String::new();
    service.read_to_string(&mut question).await?;
    service.write_all(b"late answer").await?;
    drop(service);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await?;
    assert_eq!(
        (question.as_str(), answer.as_str()),
        ("question", "late answer")
    );
    Ok(())
}
