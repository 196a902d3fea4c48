//! A permit or a token that is revoked opens nothing more, and what it carries ends within a
//! second; everybody else on the circuit is undisturbed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use patchbay_common::id::{CircuitId, UserId};
use patchbay_tests::browser::Browser;
use patchbay_tests::eventually::eventually;
use patchbay_tests::opener::Order;
use patchbay_tests::raw::{Connection, OneShotApp};
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::socket::{self, Handshake, Socket};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// What is revoked has to end within this.
const BOUND: Duration = Duration::from_secs(1);

async fn revoke(rig: &Rig, circuit: CircuitId, what: &Value) -> Result<Value> {
    let path = format!("/api/circuit/{circuit}/revocations");
    rig.opener.send(&path, what).await
}

/// The name of the grant a door's permit carries.
fn name_of(door: &Door) -> Result<String> {
    let cookie = door.cookie();
    let name = cookie
        .split("=v1.")
        .nth(1)
        .and_then(|v| v.split('.').next());
    Ok(name.context("no permit of ours")?.to_owned())
}

/// A WebSocket that carries messages.
async fn live(door: &Door) -> Result<Socket> {
    let (mut socket, _) = socket::open(door, "/ws/echo", &[]).await?;
    speaks(&mut socket).await?;
    Ok(socket)
}

async fn speaks(socket: &mut Socket) -> Result<()> {
    socket.send(Message::text("still there?")).await?;
    ensure!(socket::next(socket).await? == Message::text("still there?"));
    Ok(())
}

/// A stream of events whose head has come, and that is silent.
async fn silent_stream(door: &Door) -> Result<Connection> {
    let mut stream = Connection::open(door.address()?).await?;
    let cookie = format!("Cookie: {}", door.cookie());
    let host = format!("Host: {}", door.host());
    stream
        .write_head(&["GET /events/3 HTTP/1.1", &host, &cookie])
        .await?;
    let head = stream.read_head().await?;
    ensure!(head.status() == "200", "{head:?}");
    Ok(stream)
}

async fn within_bound<T>(what: &str, end: impl Future<Output = T>) -> Result<T> {
    let ended = tokio::time::timeout(BOUND, end).await;
    ended.with_context(|| format!("{what} goes on for more than {BOUND:?}"))
}

async fn status_of(door: &Door, cookie: &str) -> Result<u16> {
    match socket::handshake(door, "/ws/echo", cookie, &[]).await? {
        Handshake::Open(..) => Ok(101),
        Handshake::Refused(status, _) => Ok(status.as_u16()),
    }
}

async fn one_goes_the_others_stay(parts: Parts) -> Result<()> {
    let mut rig = Rig::start(parts).await?;
    let door = rig.open("jupyter").await?;
    let other = rig.open_order(&door.order).await?;
    assert_eq!(door.circuit, other.circuit, "one circuit, two grants");
    let (mut gone, mut stays) = (live(&door).await?, live(&other).await?);
    let (mut stream, _kept) = (silent_stream(&door).await?, silent_stream(&other).await?);

    let name = name_of(&door)?;
    let list = revoke(&rig, door.circuit, &json!({"jti": name})).await?;
    ensure!(list["names"].get(&name).is_some(), "{list}");
    within_bound("a WebSocket", async {
        while let Some(Ok(_)) = gone.next().await {}
    })
    .await?;
    within_bound("a stream", stream.closed()).await??;
    speaks(&mut stays).await?;

    is_shut_out(&door).await?;
    other.get("/hello").await?.expect(200)?;
    let again = Browser::new()?.get(&door.opened.setup).await?;
    again
        .expect(401)
        .context("the setup token makes a new permit")?;

    rig.coordinator.program.kill().await?;
    rig.coordinator.start_again().await?;
    rig.worker.program.kill().await?;
    rig.worker.start_again().await?;
    is_shut_out(&door)
        .await
        .context("after a restart of both")?;
    other.get("/hello").await?.expect(200)?;

    let mut stays = live(&other).await?;
    revoke(&rig, door.circuit, &json!({"all": true})).await?;
    within_bound("a WebSocket", async {
        while let Some(Ok(_)) = stays.next().await {}
    })
    .await?;
    is_shut_out(&other).await?;
    let fresh = rig.open_order(&door.order).await?;
    assert_eq!(fresh.circuit, door.circuit);
    fresh.get("/hello").await?.expect(200)?;
    assert_eq!(status_of(&fresh, &fresh.cookie()).await?, 101);

    let path = format!("/api/audit?circuit={}&action=revoked", door.circuit);
    let rows = rig.opener.read(&path).await?;
    assert_eq!(rows["entries"].as_array().map(Vec::len), Some(2), "{rows}");
    assert_eq!(rows["entries"][1]["detail"], json!(name), "{rows}");
    Ok(())
}

/// Neither a request nor an upgrade of the door's permit is carried.
async fn is_shut_out(door: &Door) -> Result<()> {
    let answer = door.get("/hello").await?.expect(401)?;
    ensure!(answer.text().contains("revoked"), "{}", answer.text());
    assert_eq!(status_of(door, &door.cookie()).await?, 401);
    Ok(())
}

#[tokio::test]
async fn by_the_stream() -> Result<()> {
    one_goes_the_others_stay(Parts::embedded().fast_lane(true)).await
}

#[tokio::test]
async fn by_the_stream_without_the_lane() -> Result<()> {
    one_goes_the_others_stay(Parts::embedded().fast_lane(false)).await
}

#[tokio::test]
async fn by_redis_out_of_postgres() -> Result<()> {
    one_goes_the_others_stay(Parts::servers()).await
}

#[tokio::test]
async fn news_that_were_lost_are_found() -> Result<()> {
    let mut rig = Rig::start(Parts::servers()).await?;
    let door = rig.open("jupyter").await?;
    let mut socket = live(&door).await?;
    rig.redis()?.stop().await?;
    revoke(&rig, door.circuit, &json!({"jti": name_of(&door)?})).await?;
    let gone = async { while let Some(Ok(_)) = socket.next().await {} };
    let found = tokio::time::timeout(Duration::from_secs(5), gone).await;
    found.context("the WebSocket goes on")?;
    is_shut_out(&door).await
}

/// The only circuit there is.
async fn only_circuit(rig: &Rig) -> Result<CircuitId> {
    let workers = rig.opener.read("/api/worker").await?;
    let worker = workers["workers"][0]["id"].as_str().context("no worker")?;
    let path = format!("/api/worker/{worker}/circuits");
    let held = rig.opener.read(&path).await?;
    let circuit = held["circuits"][0]["id"].as_str().context("no circuit")?;
    Ok(circuit.parse()?)
}

#[tokio::test]
async fn a_token_of_an_endpoint_is_revoked_by_itself() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let (endpoint, url) = rig.opener.open_endpoint(rig.app.address, false).await?;
    let circuit = only_circuit(&rig).await?;
    let path = format!("/v2/endpoints/{endpoint}/token");
    let order = json!({"user_uuid": UserId::random(), "exp": "2036-01-01T00:00:00Z"});
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let issued = rig.opener.send(&path, &order).await?;
        tokens.push(issued["token"].as_str().context("no token")?.to_owned());
    }
    // As an older coordinator signed it: without a name.
    let bare = json!({"id": circuit, "exp": 4_000_000_000_u64});
    tokens.push(patchbay_tests::secrets::token_key().sign(&bare)?);
    let ask = async |token: &str| -> Result<u16> {
        let browser = Browser::new()?;
        let request = browser.request(reqwest::Method::GET, &format!("{url}/hello"))?;
        let request = request.header("authorization", format!("Bearer {token}"));
        Ok(browser.send(request).await?.status.as_u16())
    };
    for (number, token) in tokens.iter().enumerate() {
        eventually("the route is served", Duration::from_secs(2), async || {
            ensure!(ask(token).await? == 200);
            Ok(())
        })
        .await?;
        revoke(&rig, circuit, &json!({"token": token})).await?;
        eventually("the token is refused", BOUND, async || {
            ensure!(ask(token).await? == 401);
            Ok(())
        })
        .await
        .with_context(|| format!("token {number}"))?;
    }
    let path = format!("/api/circuit/{circuit}/revocations");
    let list = rig.opener.read(&path).await?;
    let names = list["names"].as_object().context("no names")?;
    ensure!(
        names.len() == 3 && names.values().all(Value::is_u64),
        "{list}"
    );

    let foreign = json!({"id": CircuitId::random(), "exp": 4_000_000_000_u64});
    let foreign = patchbay_tests::secrets::token_key().sign(&foreign)?;
    for wrong in [
        json!({}),
        json!({"jti": "a", "all": true}),
        json!({"jti": "two words"}),
        json!({"token": "x.y.z"}),
        json!({"token": foreign}),
    ] {
        let refused = revoke(&rig, circuit, &wrong).await;
        let Err(problem) = refused else {
            bail!("{wrong} is accepted")
        };
        ensure!(problem.to_string().contains("400"), "{wrong}: {problem}");
    }
    Ok(())
}

#[tokio::test]
async fn connections_of_tcp_circuits_end_with_all_grants() -> Result<()> {
    let rig = Rig::start(Parts::embedded().protocol("tcp")).await?;
    let app = OneShotApp::start(|mut connection| async move {
        connection.write("hello").await?;
        connection.closed().await
    })
    .await?;
    let mut order = Order::http("sshd", app.address).with("open_to_public", "true");
    order.protocol = "tcp".into();
    let circuit = rig.opener.open(&order).await?.circuit;
    let port = rig.opener.circuit(circuit).await?["port"].as_u64();
    let address =
        std::net::SocketAddr::from(([127, 0, 0, 1], u16::try_from(port.context("port")?)?));
    let mut client = Connection::over(TcpStream::connect(address).await?);
    assert_eq!(client.read_exactly(5).await?, b"hello");
    let begun = Instant::now();
    revoke(&rig, circuit, &json!({"all": true})).await?;
    within_bound("a TCP connection", client.closed()).await??;
    app.outcome().await?;
    ensure!(begun.elapsed() < BOUND * 2, "{:?}", begun.elapsed());
    rig.worker
        .program
        .logged(&["ACCESS tcp", "end=revoked"])
        .await?;
    Ok(())
}
