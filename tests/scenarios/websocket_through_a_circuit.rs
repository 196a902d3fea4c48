//! Terminals, notebooks and desktops speak WebSocket; what either side says arrives unchanged.

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use patchbay_tests::browser::Browser;
use patchbay_tests::opener::Order;
use patchbay_tests::raw::{Connection, Head, OneShotApp};
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::socket::{self, Handshake};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// The example handshake of RFC 6455 §1.3.
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[tokio::test]
async fn messages_come_back_as_they_went() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let (mut socket, _) = socket::open(&door, "/ws/echo", &[]).await?;
    let long: Vec<u8> = patchbay_tests::app::download(1 << 20);
    for message in [
        Message::text("short"),
        Message::text("żółć 🦀"),
        Message::binary(vec![0, 255, 1]),
        Message::binary(long),
        Message::text(""),
    ] {
        socket.send(message.clone()).await?;
        assert_eq!(socket::next(&mut socket).await?, message);
    }
    socket.send(Message::Ping("are you there".into())).await?;
    assert_eq!(
        socket::next(&mut socket).await?,
        Message::Pong("are you there".into())
    );
    for number in 0..500 {
        socket.send(Message::text(number.to_string())).await?;
    }
    for number in 0..500 {
        assert_eq!(
            socket::next(&mut socket).await?,
            Message::text(number.to_string())
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_app_that_speaks_first_is_heard() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    for _ in 0..100 {
        let (mut socket, _) = socket::open(&door, "/ws/first", &[]).await?;
        let first = socket::next(&mut socket).await?;
        assert_eq!(first, Message::text("the app speaks first"));
    }
    Ok(())
}

#[tokio::test]
async fn by_subdomain_too() -> Result<()> {
    let rig = Rig::start(Parts::embedded().wildcard()).await?;
    let door = rig.open("jupyter").await?;
    let (mut socket, _) = socket::open(&door, "/ws/first", &[]).await?;
    assert_eq!(
        socket::next(&mut socket).await?,
        Message::text("the app speaks first")
    );
    Ok(())
}

#[tokio::test]
async fn close_codes_and_reasons_are_relayed() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    for code in [1000, 1001, 1011, 4321] {
        let (mut socket, _) = socket::open(&door, &format!("/ws/close/{code}"), &[]).await?;
        socket.send("enough?".into()).await?;
        let Message::Close(Some(frame)) = socket::next(&mut socket).await? else {
            bail!("no close frame");
        };
        assert_eq!(u16::from(frame.code), code);
        assert_eq!(frame.reason.as_str(), "the app has had enough");
    }

    // The other way: the app gets the client's frame, seen by what it echoes of it.
    let (mut socket, _) = socket::open(&door, "/ws/echo", &[]).await?;
    let frame = CloseFrame {
        code: CloseCode::Away,
        reason: "closing the lid".into(),
    };
    socket.close(Some(frame)).await?;
    let Message::Close(Some(frame)) = socket::next(&mut socket).await? else {
        bail!("no close frame");
    };
    assert_eq!(frame.code, CloseCode::Away);
    Ok(())
}

#[tokio::test]
async fn headers_and_sub_protocol_are_the_apps_business() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let headers = [
        ("origin", "https://ui.example"),
        ("authorization", "token of-the-app"),
        ("x-custom", "kept"),
        ("sec-websocket-protocol", "chat.v1, chat.v2"),
    ];
    let (mut socket, response) = socket::open(&door, "/ws/head?a=%20b", &headers).await?;
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat.v2");
    let told: Value = serde_json::from_str(socket::next(&mut socket).await?.to_text()?)?;
    let told = told["headers"].as_array().context("no headers")?;
    let header = |name: &str| {
        let found = told.iter().find(|pair| pair[0] == name);
        found.and_then(|pair| pair[1].as_str()).map(str::to_owned)
    };
    assert_eq!(header("origin").as_deref(), Some("https://ui.example"));
    assert_eq!(header("authorization").as_deref(), Some("token of-the-app"));
    assert_eq!(header("x-custom").as_deref(), Some("kept"));
    assert_eq!(
        header("sec-websocket-protocol").as_deref(),
        Some("chat.v1, chat.v2")
    );
    assert_eq!(header("host").as_deref(), Some(door.host()));
    assert_eq!(header("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(header("x-forwarded-host").as_deref(), Some(door.host()));
    ensure!(header("x-forwarded-for").is_some_and(|value| value.starts_with("127.0.0.1")));
    assert_eq!(rig.app.seen("/ws/head")[0].uri.query(), Some("a=%20b"));
    Ok(())
}

#[tokio::test]
async fn a_refusal_of_the_app_is_its_own() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let cookie = door.cookie();
    match socket::handshake(&door, "/status/418", &cookie, &[]).await? {
        Handshake::Refused(status, _) => assert_eq!(status, 418),
        Handshake::Open(..) => bail!("opened"),
    }

    // An app that does not know WebSocket answers the page, which comes through whole.
    let mut client = Connection::open(door.address()?).await?;
    let head = ask_by_hand(&mut client, &door, "/hello").await?;
    assert_eq!(head.status(), "200");
    let page = client.read_exactly("hello from the app".len()).await?;
    assert_eq!(page, b"hello from the app");
    Ok(())
}

#[tokio::test]
async fn no_app_is_told_before_the_upgrade() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let nobody = patchbay_tests::ports::Ports::reserve(1)?;
    let kernel = ([127, 0, 0, 1], nobody.first()).into();
    let door = rig.open_order(&Order::http("jupyter", kernel)).await?;
    match socket::handshake(&door, "/ws/echo", &door.cookie(), &[]).await? {
        Handshake::Refused(status, _) => assert_eq!(status, 502),
        Handshake::Open(..) => bail!("101 without an app"),
    }
    Ok(())
}

/// Asks for an upgrade by hand; the answer's head.
async fn ask_by_hand(client: &mut Connection, door: &Door, path: &str) -> Result<Head> {
    let first = format!("GET {path} HTTP/1.1");
    let host = format!("Host: {}", door.host());
    let cookie = format!("Cookie: {}", door.cookie());
    let lines = [
        &*first,
        &host,
        &cookie,
        "Connection: keep-alive, Upgrade",
        "Upgrade: WebSocket",
        "Sec-WebSocket-Version: 13",
        KEY,
    ];
    client.write_head(&lines).await?;
    client.read_head().await
}

/// Upgrades by hand.
async fn upgraded(door: &Door) -> Result<Connection> {
    let mut client = Connection::open(door.address()?).await?;
    let head = ask_by_hand(&mut client, door, "/by-hand").await?;
    ensure!(head.status() == "101", "{head:?}");
    Ok(client)
}

async fn answer_upgrade(app: &mut Connection) -> Result<()> {
    app.read_head().await?;
    let lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Connection: Upgrade",
        "Upgrade: websocket",
        ACCEPT,
    ];
    app.write_head(&lines).await
}

#[tokio::test]
async fn when_the_client_ends_its_side_the_app_can_still_speak() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let app = OneShotApp::start(|mut app: Connection| async move {
        answer_upgrade(&mut app).await?;
        let heard = app.read_to_end().await?;
        app.write("late words").await?;
        Ok(heard)
    })
    .await?;
    let door = rig.open_order(&Order::http("by-hand", app.address)).await?;
    let mut client = upgraded(&door).await?;
    client.write("last words").await?;
    client.end_our_side().await?;
    assert_eq!(client.read_to_end().await?, b"late words");
    assert_eq!(app.outcome().await?, b"last words");
    Ok(())
}

#[tokio::test]
async fn when_the_app_ends_its_side_the_client_can_still_speak() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let app = OneShotApp::start(|mut app: Connection| async move {
        answer_upgrade(&mut app).await?;
        app.write("last words").await?;
        app.end_our_side().await?;
        app.read_to_end().await
    })
    .await?;
    let door = rig.open_order(&Order::http("by-hand", app.address)).await?;
    let mut client = upgraded(&door).await?;
    assert_eq!(client.read_to_end().await?, b"last words");
    client.write("late words").await?;
    client.end_our_side().await?;
    assert_eq!(app.outcome().await?, b"late words");
    Ok(())
}

#[tokio::test]
async fn a_broken_client_is_noticed_by_the_app() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let app = OneShotApp::start(|mut app: Connection| async move {
        answer_upgrade(&mut app).await?;
        app.closed().await
    })
    .await?;
    let door = rig.open_order(&Order::http("by-hand", app.address)).await?;
    upgraded(&door).await?.reset()?;
    app.outcome().await
}

#[tokio::test]
async fn a_broken_app_is_noticed_by_the_client() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let app = OneShotApp::start(|mut app: Connection| async move {
        answer_upgrade(&mut app).await?;
        app.read_exactly(5).await?;
        app.reset()
    })
    .await?;
    let door = rig.open_order(&Order::http("by-hand", app.address)).await?;
    let mut client = upgraded(&door).await?;
    client.write("break").await?;
    client.closed().await?;
    app.outcome().await
}

#[tokio::test]
async fn words_sent_with_the_handshake_arrive() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let app = OneShotApp::start(|mut app: Connection| async move {
        answer_upgrade(&mut app).await?;
        app.read_exactly(11).await
    })
    .await?;
    let door = rig.open_order(&Order::http("by-hand", app.address)).await?;
    let mut client = Connection::open(door.address()?).await?;
    let head = format!(
        "GET /by-hand HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{KEY}\r\n\r\nearly words",
        door.host(),
        door.cookie()
    );
    client.write(head).await?;
    assert_eq!(client.read_head().await?.status(), "101");
    assert_eq!(app.outcome().await?, b"early words");
    Ok(())
}

#[tokio::test]
async fn closing_a_circuit_ends_open_sockets_and_refuses_new_ones() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let door = rig.open("jupyter").await?;
    let (mut socket, _) = socket::open(&door, "/ws/held", &[]).await?;
    rig.opener.close(door.circuit).await?;
    patchbay_tests::eventually::eventually(
        "new ones are refused",
        std::time::Duration::from_secs(2),
        async || Browser::new()?.get(&door.at("/hello")).await?.expect(400),
    )
    .await?;
    match socket::handshake(&door, "/ws/echo", &door.cookie(), &[]).await? {
        Handshake::Refused(status, _) => assert_eq!(status, 400),
        Handshake::Open(..) => bail!("a closed circuit opens a WebSocket"),
    }
    let ended = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::time::timeout(std::time::Duration::from_secs(1), ended)
        .await
        .context("the open socket outlives its circuit")?;
    Ok(())
}
