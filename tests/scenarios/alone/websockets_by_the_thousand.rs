//! WebSockets in number: an app that speaks first loses no byte, and sessions with an app that
//! never speaks leave nothing behind. With `PATCHBAY_FULL=1` there are 10,000 handshakes, and a
//! silent session stays for ten minutes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use patchbay_tests::eventually::eventually;
use patchbay_tests::raw::{Connection, OneShotApp};
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::scale::sized;
use tokio::net::TcpListener;

const UPGRADE: &[&str] = &[
    "GET /ws HTTP/1.1",
    "Host: h",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];
const SWITCHED: &[&str] = &[
    "HTTP/1.1 101 Switching Protocols",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
];
/// A frame of text, and what it is.
const GREETING: &[u8] = b"\x81\x05hello";

/// An app that switches everyone, says `first` with its head in one packet, and waits for the end;
/// it counts whom it serves.
async fn app(first: &'static [u8], open: Arc<AtomicUsize>) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let open = Arc::clone(&open);
            tokio::spawn(async move {
                open.fetch_add(1, Ordering::SeqCst);
                let mut connection = Connection::over(stream);
                // What goes wrong shows at the client.
                let _ = serve(&mut connection, first).await;
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    Ok(address)
}

async fn serve(connection: &mut Connection, first: &[u8]) -> Result<()> {
    connection.read_head().await?;
    let head = format!("{}\r\n\r\n", SWITCHED.join("\r\n"));
    connection.write([head.as_bytes(), first].concat()).await?;
    connection.closed().await
}

async fn public(rig: &Rig, kernel: SocketAddr) -> Result<Door> {
    let mut order = rig.order("app").with("open_to_public", "true");
    order.kernel = kernel;
    rig.open_order(&order).await
}

async fn shake(address: SocketAddr) -> Result<Connection> {
    let mut client = Connection::open(address).await?;
    client.write_head(UPGRADE).await?;
    let answer = client.read_head().await?;
    ensure!(answer.status() == "101", "{answer:?}");
    Ok(client)
}

#[tokio::test]
async fn an_app_that_speaks_first_loses_no_byte() -> Result<()> {
    const AT_ONCE: usize = 20;
    let handshakes = sized(1_000, 10_000);
    let rig = Rig::start(Parts::embedded()).await?;
    let kernel = app(GREETING, Arc::default()).await?;
    let address = public(&rig, kernel).await?.address()?;
    for _ in 0..handshakes / AT_ONCE {
        let shaken = (0..AT_ONCE).map(|_| async move {
            let mut client = shake(address).await?;
            let greeting = client.read_exactly(GREETING.len()).await?;
            ensure!(greeting == GREETING, "{greeting:?}");
            Ok(())
        });
        futures_util::future::try_join_all(shaken).await?;
    }
    crate::report_figure(format_args!("{handshakes} handshakes, no byte lost"));
    Ok(())
}

#[tokio::test]
async fn a_silent_session_stays() -> Result<()> {
    let silence = sized(Duration::from_secs(3), Duration::from_secs(610));
    let app = OneShotApp::start(|mut connection| async move {
        connection.read_head().await?;
        connection.write_head(SWITCHED).await?;
        connection.read_head_whenever().await
    })
    .await?;
    let rig = Rig::start(Parts::embedded()).await?;
    let mut client = shake(public(&rig, app.address).await?.address()?).await?;
    // Nothing may come of it for as long.
    let ended = tokio::time::timeout(silence, client.stirs()).await;
    ensure!(ended.is_err(), "the session was ended");
    client.write_head(&["still here"]).await?;
    ensure!(app.outcome().await?.first_line == "still here");
    crate::report_figure(format_args!("a WebSocket was silent for {silence:?}"));
    Ok(())
}

#[tokio::test]
async fn a_hundred_sessions_with_a_silent_app_leave_nothing_behind() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let busy = Arc::new(AtomicUsize::new(0));
    let kernel = app(b"", Arc::clone(&busy)).await?;
    let address = public(&rig, kernel).await?.address()?;
    for number in 0..100 {
        let client = shake(address).await?;
        if number % 2 == 0 {
            client.reset()?;
        }
    }
    let gone = Instant::now();
    eventually(
        "the app is left alone",
        Duration::from_secs(5),
        async || {
            let left = busy.load(Ordering::SeqCst);
            ensure!(left == 0, "{left} sessions are left");
            Ok(())
        },
    )
    .await?;
    let took = gone.elapsed();
    ensure!(took < Duration::from_secs(2), "it took {took:?}");
    shake(address).await?;
    Ok(())
}
