//! gRPC apps: every kind of call, trailers, many streams on few connections, over TLS and in
//! plaintext; refusals as gRPC statuses; browsers by gRPC-Web.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use patchbay_common::id::CircuitId;
use patchbay_tests::eventually::eventually;
use patchbay_tests::grpc::{Client, Kernel, framed};
use patchbay_tests::opener::Order;
use patchbay_tests::rig::{Parts, Rig};
use patchbay_tests::tls::{Authority, Hands};

const SOON: Duration = Duration::from_secs(5);

struct Stage {
    rig: Rig,
    kernel: Kernel,
    circuit: CircuitId,
    address: SocketAddr,
}

async fn stage(parts: Parts) -> Result<Stage> {
    let rig = Rig::start(parts.protocol("grpc")).await?;
    let kernel = Kernel::start().await?;
    let (circuit, address) = open(&rig, kernel.address).await?;
    Ok(Stage {
        rig,
        kernel,
        circuit,
        address,
    })
}

/// A circuit that is open to the public, and where it is.
async fn open(rig: &Rig, kernel: SocketAddr) -> Result<(CircuitId, SocketAddr)> {
    let mut order = Order::http("model", kernel).with("open_to_public", "true");
    order.protocol = "grpc".into();
    let circuit = rig.opener.open(&order).await?.circuit;
    let port = rig.opener.circuit(circuit).await?["port"].as_u64();
    let port = u16::try_from(port.context("no port")?)?;
    Ok((circuit, ([127, 0, 0, 1], port).into()))
}

#[tokio::test]
async fn every_kind_of_call() -> Result<()> {
    let stage = stage(Parts::embedded()).await?;
    let client = Client::connect(stage.address).await?;

    let reply = client.unary("Unary", b"hello", &[("x-ask", "me")]).await?;
    assert_eq!(reply.body, framed(b"hello"));
    assert_eq!(reply.status("grpc-status"), "0");
    assert_eq!(reply.status("x-told"), "me");
    assert_eq!(reply.head.headers()["x-initial"], "of the app");
    ensure!(
        reply.head.headers().contains_key("x-backend-request-id"),
        "{reply:?}"
    );
    let head = stage.kernel.last_head()?;
    assert_eq!(head.headers()["te"], "trailers");
    assert_eq!(head.headers()["x-ask"], "me");
    ensure!(
        head.headers().contains_key("x-backend-request-id"),
        "{head:?}"
    );

    let reply = client
        .unary("ServerStreams", &1_000u32.to_be_bytes(), &[])
        .await?;
    assert_eq!(reply.body.len(), 1_000 * 9);
    assert_eq!(reply.status("grpc-status"), "0");

    let mut call = client.call("ClientStreams", &[]).await?;
    for _ in 0..1_000 {
        call.send.send_data(framed(&[7; 95]), false)?;
    }
    call.send.send_data(Bytes::new(), true)?;
    let reply = call.reply().await?;
    assert_eq!(reply.body, framed(&100_000u64.to_be_bytes()));

    // Message for message: nothing is held back until more comes.
    let mut call = client.call("Bidi", &[]).await?;
    call.head().await?;
    for number in 0..100u32 {
        call.send.send_data(framed(&number.to_be_bytes()), false)?;
        assert_eq!(call.message(4).await?, number.to_be_bytes()[..]);
    }
    call.send.send_data(Bytes::new(), true)?;
    ensure!(call.piece().await?.is_none(), "more than was sent");

    let reply = client.unary("TrailersOnly", b"", &[]).await?;
    ensure!(reply.trailers.is_none(), "{reply:?}");
    assert_eq!(reply.status("grpc-status"), "9");
    assert_eq!(reply.status("grpc-message"), "not now");
    Ok(())
}

#[tokio::test]
async fn large_messages_pass_both_ways() -> Result<()> {
    let stage = stage(Parts::embedded()).await?;
    let client = Client::connect(stage.address).await?;
    let message: Vec<u8> = (0..8u32 << 18).flat_map(u32::to_be_bytes).collect();
    let reply = client.unary("Unary", &message, &[]).await?;
    ensure!(
        reply.body == framed(&message),
        "{} bytes came",
        reply.body.len()
    );
    assert_eq!(reply.status("grpc-status"), "0");
    Ok(())
}

#[tokio::test]
async fn a_thousand_calls_at_once_on_few_connections() -> Result<()> {
    let sections = "[http2]\nmax_streams = 1000\nmax_upstream_streams = 500\n";
    let stage = stage(Parts::embedded().worker(sections)).await?;
    let client = Client::connect(stage.address).await?;
    client.unary("Unary", b"first", &[]).await?;
    let mut calls = Vec::new();
    for _ in 0..1_000 {
        let mut call = client.call("Bidi", &[]).await?;
        call.send.send_data(framed(b"here"), false)?;
        calls.push(call);
    }
    for call in &mut calls {
        call.head().await?;
        assert_eq!(call.message(4).await?, b"here"[..]);
    }
    // All are open now.
    for mut call in calls {
        call.send.send_data(framed(b"gone"), true)?;
        assert_eq!(call.message(4).await?, b"gone"[..]);
    }
    let connections = stage.kernel.connections();
    // Calls that come at the same moment may miss a connection that has room.
    ensure!(
        connections <= 250,
        "{connections} connections to the kernel"
    );
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_given_up_ends_at_the_app() -> Result<()> {
    let stage = stage(Parts::embedded()).await?;
    let client = Client::connect(stage.address).await?;
    let mut call = client.call("Hangs", &[("grpc-timeout", "1S")]).await?;
    call.head().await?;
    assert_eq!(stage.kernel.last_head()?.headers()["grpc-timeout"], "1S");
    call.send.send_reset(h2::Reason::CANCEL);
    eventually("the app hears of it", SOON, async || {
        ensure!(stage.kernel.resets() == 1, "{}", stage.kernel.resets());
        Ok(())
    })
    .await?;
    // The connection goes on.
    client.unary("Unary", b"next", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn closing_the_circuit_ends_a_silent_call() -> Result<()> {
    let stage = stage(Parts::embedded()).await?;
    let client = Client::connect(stage.address).await?;
    let mut call = client.call("Hangs", &[]).await?;
    call.head().await?;
    let begin = Instant::now();
    stage.rig.opener.close(stage.circuit).await?;
    ensure!(call.piece().await.is_err(), "the call goes on");
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(1), "it took {took:?}");
    let words = ["/scenario.Kinds/Hangs", "closed"];
    stage.rig.worker.program.logged(&words).await?;
    Ok(())
}

#[tokio::test]
async fn refusals_are_statuses() -> Result<()> {
    let stage = stage(Parts::embedded()).await?;
    let client = Client::connect(stage.address).await?;
    let nobody = patchbay_tests::ports::Ports::reserve(1)?.first();
    let (_, dead) = open(&stage.rig, ([127, 0, 0, 1], nobody).into()).await?;
    let unreachable = Client::connect(dead)
        .await?
        .unary("Unary", b"", &[])
        .await?;
    assert_eq!(unreachable.status("grpc-status"), "14");
    ensure!(
        !unreachable.status("grpc-message").is_empty(),
        "{unreachable:?}"
    );

    let closed = {
        stage.rig.opener.close(stage.circuit).await?;
        eventually("the circuit is gone", SOON, async || {
            let reply = client.unary("Unary", b"", &[]).await?;
            ensure!(reply.status("grpc-status") == "5", "{reply:?}");
            Ok(reply)
        })
        .await?
    };
    assert_eq!(closed.head.headers()["content-type"], "application/grpc");
    ensure!(
        closed.head.headers().contains_key("x-backend-request-id"),
        "{closed:?}"
    );
    Ok(())
}

#[tokio::test]
async fn over_tls_by_alpn() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new()?;
    let (cert, key) = authority
        .issue(&["gate.example"])?
        .write(folder.path(), "gate")?;
    let (cert, key) = (cert.display(), key.display());
    let tls = format!("tls_listen = true\ntls_cert = \"{cert}\"\ntls_privkey = \"{key}\"\n");
    let stage = stage(Parts::embedded().tls(&tls)).await?;
    let hands = Hands::offering(&authority, &["h2", "http/1.1"])?;
    let stream = hands.shake(stage.address, "gate.example").await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let client = Client::over("https", "gate.example", stream).await?;
    let reply = client.unary("Unary", b"hello", &[]).await?;
    assert_eq!(reply.body, framed(b"hello"));
    assert_eq!(reply.status("grpc-status"), "0");
    let head = stage.kernel.last_head()?;
    assert_eq!(head.headers()["x-forwarded-proto"], "https");
    Ok(())
}

#[tokio::test]
async fn browsers_come_by_grpc_web() -> Result<()> {
    let stage = stage(Parts::embedded()).await?;
    let url = format!("http://{}/scenario.Kinds/Unary", stage.address);
    let client = patchbay_tests::browser::client()?;
    let ask = async |kind: &str, body: Bytes| -> Result<(String, Bytes)> {
        let request = client.post(&url).header("content-type", kind).body(body);
        let answer = request.header("x-ask", "me").send().await?;
        let kind = answer.headers()["content-type"].to_str()?.to_owned();
        Ok((kind, answer.bytes().await?))
    };
    let kind = "application/grpc-web+proto";
    let (answered, body) = ask(kind, framed(b"hello")).await?;
    assert_eq!(answered, kind);
    let (message, trailers) = body.split_at(10);
    assert_eq!(*message, framed(b"hello"));
    assert_eq!(trailers[0], 0x80);
    let length = u32::from_be_bytes(trailers[1..5].try_into()?) as usize;
    assert_eq!(length, trailers.len() - 5);
    let text = std::str::from_utf8(&trailers[5..])?;
    ensure!(
        text.contains("grpc-status: 0\r\n") && text.contains("x-told: me\r\n"),
        "{text}"
    );
    assert_eq!(
        stage.kernel.last_head()?.headers()["content-type"],
        "application/grpc+proto"
    );

    // The same in base64: `\0\0\0\0\x05hello`.
    let kind = "application/grpc-web-text+proto";
    let (answered, body) = ask(kind, Bytes::from_static(b"AAAAAAVoZWxsbw==")).await?;
    assert_eq!(answered, kind);
    ensure!(body.starts_with(b"AAAAAAVoZWxsbw=="), "{body:?}");

    stage.rig.opener.close(stage.circuit).await?;
    eventually("the refusal is a status", SOON, async || {
        let request = client
            .post(&url)
            .header("content-type", "application/grpc-web");
        let answer = request.send().await?;
        let status = answer.headers().get("grpc-status").cloned();
        ensure!(
            answer.status() == 200 && status.is_some_and(|status| status == "5"),
            "{answer:?}"
        );
        Ok(())
    })
    .await
}
