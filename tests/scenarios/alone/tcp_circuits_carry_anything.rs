//! TCP circuits: either side may end its half, be silent, break off or outlive the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use patchbay_common::id::CircuitId;
use patchbay_tests::eventually::eventually;
use patchbay_tests::opener::Order;
use patchbay_tests::raw::{Connection, OneShotApp};
use patchbay_tests::rig::{Parts, Rig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

async fn rig() -> Result<Rig> {
    Rig::start(Parts::embedded().protocol("tcp")).await
}

async fn open(rig: &Rig, kernel: SocketAddr) -> Result<(CircuitId, SocketAddr)> {
    let mut order = Order::http("sshd", kernel).with("open_to_public", "true");
    order.protocol = "tcp".into();
    let circuit = rig.opener.open(&order).await?.circuit;
    let port = rig.opener.circuit(circuit).await?["port"].as_u64();
    let port = u16::try_from(port.context("no port")?)?;
    Ok((circuit, ([127, 0, 0, 1], port).into()))
}

async fn connect(address: SocketAddr) -> Result<Connection> {
    Ok(Connection::over(TcpStream::connect(address).await?))
}

#[tokio::test]
async fn either_side_may_speak_first_and_end_its_half() -> Result<()> {
    let rig = rig().await?;
    let app = OneShotApp::start(|mut connection| async move {
        connection.write("SSH-2.0-app\r\n").await?;
        let got = connection.read_to_end().await?;
        // The client has ended its side; ours is open.
        connection.write("and good-bye").await?;
        Ok(got)
    })
    .await?;
    let (_, address) = open(&rig, app.address).await?;
    let mut client = connect(address).await?;
    assert_eq!(client.read_exactly(13).await?, b"SSH-2.0-app\r\n");
    client.write("all I have").await?;
    client.end_our_side().await?;
    assert_eq!(client.read_to_end().await?, b"and good-bye");
    assert_eq!(app.outcome().await?, b"all I have");

    // The other way round: an app that has sent all still reads.
    let app = OneShotApp::start(|mut connection| async move {
        connection.write("all I have").await?;
        connection.end_our_side().await?;
        connection.read_to_end().await
    })
    .await?;
    let (_, address) = open(&rig, app.address).await?;
    let mut client = connect(address).await?;
    assert_eq!(client.read_to_end().await?, b"all I have");
    client.write("and good-bye").await?;
    client.end_our_side().await?;
    assert_eq!(app.outcome().await?, b"and good-bye");
    Ok(())
}

#[tokio::test]
async fn a_side_that_breaks_off_takes_the_other_with_it() -> Result<()> {
    let rig = rig().await?;
    // A reset may overtake what was sent: the app has to have it first.
    let (heard, has_heard) = tokio::sync::oneshot::channel();
    let app = OneShotApp::start(|mut connection| async move {
        connection.read_exactly(2).await?;
        let _ = heard.send(());
        connection.closed().await
    })
    .await?;
    let (_, address) = open(&rig, app.address).await?;
    let mut client = connect(address).await?;
    client.write("hi").await?;
    has_heard.await?;
    let began = Instant::now();
    client.reset()?;
    app.outcome().await?;
    ensure!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );

    let app = OneShotApp::start(|mut connection| async move {
        connection.read_exactly(2).await?;
        connection.reset()
    })
    .await?;
    let (_, address) = open(&rig, app.address).await?;
    let mut client = connect(address).await?;
    client.write("hi").await?;
    app.outcome().await?;
    let began = Instant::now();
    client.closed().await?;
    ensure!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn closing_the_circuit_ends_silent_connections() -> Result<()> {
    let rig = rig().await?;
    let app = OneShotApp::start(|mut connection| async move {
        connection.write("x").await?;
        connection.closed().await
    })
    .await?;
    let (circuit, address) = open(&rig, app.address).await?;
    let mut client = connect(address).await?;
    client.read_exactly(1).await?;
    let began = Instant::now();
    rig.opener.close(circuit).await?;
    client.closed().await?;
    app.outcome().await?;
    ensure!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

/// An app that sends without an end to everyone, and counts whom it serves.
async fn endless(open: Arc<AtomicUsize>) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let open = Arc::clone(&open);
            tokio::spawn(async move {
                open.fetch_add(1, Ordering::SeqCst);
                while stream.write_all(&[7; 65_536]).await.is_ok() {}
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    Ok(address)
}

#[tokio::test]
async fn clients_that_drop_in_mid_transfer_leave_nothing_behind() -> Result<()> {
    let rig = rig().await?;
    let busy = Arc::new(AtomicUsize::new(0));
    let (_, address) = open(&rig, endless(Arc::clone(&busy)).await?).await?;
    let mut clients = Vec::new();
    for _ in 0..16 {
        let mut client = TcpStream::connect(address).await?;
        client.read_exact(&mut vec![0; 200_000]).await?;
        clients.push(client);
    }
    for (number, client) in clients.into_iter().enumerate() {
        if number % 2 == 0 {
            client.set_zero_linger()?;
        }
    }
    eventually(
        "the app is left alone",
        Duration::from_secs(5),
        async || {
            let left = busy.load(Ordering::SeqCst);
            ensure!(left == 0, "{left} connections are left");
            Ok(())
        },
    )
    .await?;
    // The circuit answers as before.
    let mut client = TcpStream::connect(address).await?;
    client.read_exact(&mut [0; 1_000]).await?;
    Ok(())
}
