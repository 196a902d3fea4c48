//! The PROXY protocol: a balancer that is trusted says who the client is, on every frontend;
//! nobody else is believed; TCP apps are told in turn.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::opener::Order;
use patchbay_tests::raw::{Connection, OneShotApp};
use patchbay_tests::recorder::Recorder;
use patchbay_tests::rig::{Parts, Rig};
use tokio::net::{TcpSocket, TcpStream};

/// Where the balancer sits; the rig's own clients come from 127.0.0.1.
const BALANCER: &str = "127.0.0.2:0";
const SECTION: &str = "[proxy_protocol]\ntrusted = [\"127.0.0.2\", \"192.0.2.0/24\"]\n";
const LINE: &str = "PROXY TCP4 203.0.113.7 198.51.100.1 40000 443\r\n";

async fn from_balancer(address: SocketAddr) -> Result<Connection> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(BALANCER.parse()?)?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Connection::over(stream))
}

/// Version 2, with what balancers like to add behind the addresses.
fn binary() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10".to_vec();
    header.extend_from_slice(&[203, 0, 113, 7, 198, 51, 100, 1]);
    header.extend_from_slice(&40_000u16.to_be_bytes());
    header.extend_from_slice(&443u16.to_be_bytes());
    header.extend_from_slice(&[4, 0, 1, 0]);
    header
}

struct Stage {
    rig: Rig,
    recorder: Recorder,
    address: SocketAddr,
}

/// A circuit to a recorder that only 203.0.113.0/24 may use.
async fn stage(protocol: &str, section: &str) -> Result<Stage> {
    let rig = Rig::start(Parts::embedded().protocol(protocol).worker(section)).await?;
    let recorder = Recorder::start().await?;
    let address = open(&rig, protocol, recorder.address).await?;
    Ok(Stage {
        rig,
        recorder,
        address,
    })
}

async fn open(rig: &Rig, protocol: &str, kernel: SocketAddr) -> Result<SocketAddr> {
    let mut order = Order::http("app", kernel)
        .with("open_to_public", "true")
        .with("allowed_client_ips", "203.0.113.0/24");
    protocol.clone_into(&mut order.protocol);
    let circuit = rig.opener.open(&order).await?.circuit;
    let port = rig.opener.circuit(circuit).await?["port"].as_u64();
    let port = u16::try_from(port.context("no port")?)?;
    Ok(([127, 0, 0, 1], port).into())
}

const REQUEST: &[&str] = &["GET /x HTTP/1.1", "Host: h"];

#[tokio::test]
async fn in_either_version_and_in_pieces() -> Result<()> {
    let stage = stage("http", SECTION).await?;
    for header in [LINE.as_bytes().to_vec(), binary()] {
        let mut client = from_balancer(stage.address).await?;
        client.write(&header).await?;
        client.write_head(REQUEST).await?;
        assert_eq!(client.read_head().await?.status(), "200");
        let seen = String::from_utf8(stage.recorder.take())?.to_ascii_lowercase();
        ensure!(seen.contains("x-forwarded-for: 203.0.113.7\r\n"), "{seen}");

        let mut client = from_balancer(stage.address).await?;
        for byte in &header {
            client.write([*byte]).await?;
            tokio::task::yield_now().await;
        }
        client.write_head(REQUEST).await?;
        assert_eq!(client.read_head().await?.status(), "200");
    }
    let words = ["/x", "203.0.113.7"];
    stage.rig.worker.program.logged(&words).await?;
    Ok(())
}

#[tokio::test]
async fn a_check_by_the_balancer_itself_comes_from_the_balancer() -> Result<()> {
    let stage = stage("http", SECTION).await?;
    for header in [&b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..], b"PROXY UNKNOWN\r\n"] {
        let mut client = from_balancer(stage.address).await?;
        client.write(header).await?;
        client.write_head(REQUEST).await?;
        // 127.0.0.2 may not use the circuit.
        assert_eq!(client.read_head().await?.status(), "403");
    }
    // Its own API is a frontend like any other.
    let api = ([127, 0, 0, 1], stage.rig.worker.port()).into();
    let mut client = from_balancer(api).await?;
    client.write(LINE).await?;
    client
        .write_head(&["GET /health/livez HTTP/1.1", "Host: h"])
        .await?;
    assert_eq!(client.read_head().await?.status(), "200");
    Ok(())
}

#[tokio::test]
async fn a_trusted_peer_without_a_header_is_cut_off() -> Result<()> {
    let stage = stage("http", SECTION).await?;
    for garbage in [
        &b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"[..],
        b"PROXY TCP4 203.0.113.7\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 443\nGET /x HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff0123456789",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c0123456789ab",
        b"\0\0\0\0",
    ] {
        let mut client = from_balancer(stage.address).await?;
        client.write(garbage).await?;
        client.closed().await?;
    }
    let seen = stage.recorder.text();
    ensure!(seen.is_empty(), "the app got {seen:?}");
    Ok(())
}

#[tokio::test]
async fn nobody_else_is_believed() -> Result<()> {
    let stage = stage("http", SECTION).await?;
    for header in [LINE.as_bytes().to_vec(), binary()] {
        let mut client = Connection::over(TcpStream::connect(stage.address).await?);
        client.write(&header).await?;
        client.write_head(REQUEST).await?;
        let answer = client.read_head().await?;
        assert_eq!(answer.status(), "400", "{answer:?}");
    }
    let seen = stage.recorder.text();
    ensure!(seen.is_empty(), "the app got {seen:?}");
    Ok(())
}

#[tokio::test]
async fn tcp_apps_are_told_in_turn() -> Result<()> {
    for (version, begin) in [
        ("v1", &b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 "[..]),
        (
            "v2",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\x7f\0\0\x01\x9c\x40",
        ),
    ] {
        let section = format!("{SECTION}upstream = \"{version}\"\n");
        let stage = stage("tcp", &section).await?;
        let length = begin.len();
        let app = OneShotApp::start(move |mut connection| async move {
            let got = connection.read_exactly(length).await?;
            connection.write("welcome").await?;
            Ok(got)
        })
        .await?;
        let address = open(&stage.rig, "tcp", app.address).await?;
        let mut client = from_balancer(address).await?;
        client.write(LINE).await?;
        assert_eq!(client.read_exactly(7).await?, b"welcome");
        assert_eq!(app.outcome().await?, begin, "{version}");
        drop(client);
        stage
            .rig
            .worker
            .program
            .logged(&["tcp", "203.0.113.7"])
            .await?;

        // Who is not a trusted peer may not use the circuit.
        let mut stranger = Connection::over(TcpStream::connect(address).await?);
        stranger.write(LINE).await?;
        stranger.closed().await?;
    }
    Ok(())
}
