//! A kernel behind NAT is an upstream like any other: of a circuit, also one that speaks gRPC, and
//! of a gateway's service, where another replica takes over when its agent is gone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use patchbay_tests::app::App;
use patchbay_tests::eventually::eventually;
use patchbay_tests::gateway::{Gateway, service};
use patchbay_tests::grpc::{Client, Kernel, framed};
use patchbay_tests::lending::{Agent, lend, section};
use patchbay_tests::opener::Order;
use patchbay_tests::ports::Ports;
use patchbay_tests::rig::{Parts, Rig};
use patchbay_tests::socket::{self, Handshake};
use tokio_tungstenite::tungstenite::Message;

/// A rig whose worker is a gateway for agents too, and an agent that lends this.
async fn lending(parts: Parts, tunnel: &str) -> Result<(Rig, Agent, Ports)> {
    let ports = Ports::reserve(1)?;
    let gateway = format!("127.0.0.1:{}", ports.first());
    let sections = format!("\n[gateway]\nbind = \"{gateway}\"\n{}", section(""));
    let rig = Rig::start(parts.worker(&sections)).await?;
    let url = format!("http://{gateway}");
    let agent = Agent::at(&[&url], rig.folder.path(), "kernel-host", &[tunnel], &[]).await?;
    let health = format!("{url}/api/health");
    eventually(
        "the agent is connected",
        Duration::from_secs(20),
        async || {
            let health = reqwest::get(&health).await?.text().await?;
            ensure!(health.contains("\"tunnels\":1"), "{health}");
            Ok(())
        },
    )
    .await?;
    Ok((rig, agent, ports))
}

#[tokio::test]
async fn a_circuit_leads_to_a_kernel_behind_nat() -> Result<()> {
    let app = App::start().await?;
    let (rig, mut agent, _ports) = lending(Parts::embedded(), &lend("kernel-1", &app)).await?;
    let mut order = Order::http("jupyter", app.address);
    order.kernel_host = Some("tunnel://kernel-1".into());
    let door = rig.open_order(&order).await?;
    let answer = door.get("/hello").await?.expect(200)?;
    assert_eq!(answer.text(), "hello from the app");
    let seen = app.seen("/hello").pop().context("it reached the app")?;
    ensure!(
        !seen.header("x-backend-request-id").is_empty(),
        "no request id"
    );
    let url = door.at("/ws/echo").replace("http://", "ws://");
    let cookie = door.cookie();
    let opened = socket::handshake_at(&url, door.address()?, &[("cookie", &cookie)]).await?;
    let Handshake::Open(mut socket, _) = opened else {
        anyhow::bail!("the handshake was refused");
    };
    use futures_util::SinkExt as _;
    socket.send(Message::text("to the kernel")).await?;
    assert_eq!(socket::next(&mut socket).await?.to_text()?, "to the kernel");
    agent.program.kill().await?;
    let gone = door.get("/hello").await?;
    ensure!(
        [502, 503].contains(&gone.status.as_u16()),
        "{}",
        gone.status
    );
    Ok(())
}

#[tokio::test]
async fn grpc_streams_both_ways_through_a_tunnel() -> Result<()> {
    let kernel = Kernel::start().await?;
    let tunnel = format!("model=tcp://{}", kernel.address);
    let (rig, _agent, _ports) = lending(Parts::embedded().protocol("grpc"), &tunnel).await?;
    let mut order = Order::http("model", kernel.address).with("open_to_public", "true");
    order.protocol = "grpc".into();
    order.kernel_host = Some("tunnel://model".into());
    let circuit = rig.opener.open(&order).await?.circuit;
    let port = rig.opener.circuit(circuit).await?["port"].as_u64();
    let port = u16::try_from(port.context("no port")?)?;
    let client = Client::connect(([127, 0, 0, 1], port).into()).await?;
    let mut call = client.call("Bidi", &[]).await?;
    for number in 0..50_u8 {
        call.send.send_data(framed(&[number; 50]), false)?;
        if number == 0 {
            call.head().await?;
        }
        // The answer to each message comes before the next one is sent.
        assert_eq!(call.message(50).await?, vec![number; 50]);
    }
    call.send.send_data(Bytes::new(), true)?;
    Ok(())
}

#[tokio::test]
async fn a_gateways_service_has_a_replica_behind_nat() -> Result<()> {
    let (far, near) = (App::start().await?, App::start().await?);
    let instances = format!("instances = [\"tunnel://replica\", \"{}\"]", near.address);
    let own = format!("instances = [\"{}\"]", near.address);
    let sections = service("api", &[&near]).replace(&own, &instances)
        + "[gateway.routes.all]\nservice = \"api\"\n"
        + &section("");
    let gateway = Gateway::start(&sections).await?;
    let mut agent = Agent::start(&gateway, "nat", &[&lend("replica", &far)]).await?;
    for _ in 0..10 {
        gateway.get("/hello", &[]).await?.expect(200)?;
    }
    for _ in 0..2 {
        assert_eq!(gateway.upgrade("/ws/first", &[]).await?, 101);
    }
    let counts = (far.seen("/hello").len(), near.seen("/hello").len());
    assert_eq!(counts, (5, 5), "they share the work");
    agent.program.kill().await?;
    for _ in 0..10 {
        gateway.get("/hello", &[]).await?.expect(200)?;
    }
    assert_eq!(far.seen("/hello").len(), 5);
    Ok(())
}
