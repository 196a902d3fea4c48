//! HTTP/2 as RFC 9113 has it, with frames no library would send; its limits; and that browsers
//! get it by TLS.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::frames::code::REFUSED_STREAM;
use patchbay_tests::frames::flag::{END_HEADERS, END_STREAM, NONE};
use patchbay_tests::frames::kind::{
    DATA, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use patchbay_tests::frames::{PREFACE, Wire, block, frame, header, request};
use patchbay_tests::http2_cases::{cases, hold};
use patchbay_tests::recorder::Recorder;
use patchbay_tests::rig::{Door, Parts, Rig};

const WHOLE: u8 = END_STREAM | END_HEADERS;

async fn public(rig: &Rig, kernel: SocketAddr) -> Result<Door> {
    let mut order = rig.order("app").with("open_to_public", "true");
    order.kernel = kernel;
    rig.open_order(&order).await
}

#[tokio::test]
async fn every_case_of_the_table() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let recorder = Recorder::start().await?;
    let address = public(&rig, recorder.address).await?.address()?;
    let cases = cases();
    ensure!(cases.len() >= 140, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(problem) = hold(case, address).await {
            wrong.push(format!("{}: {problem:#}", case.name));
        }
    }
    let (count, all) = (wrong.len(), cases.len());
    ensure!(wrong.is_empty(), "{count} of {all}:\n{}", wrong.join("\n"));
    let seen = recorder.text();
    let malformed = seen.lines().find(|line| line.contains("GET /malformed"));
    ensure!(malformed.is_none(), "the app got {malformed:?}");
    Ok(())
}

#[tokio::test]
async fn openings_that_are_none() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let address = public(&rig, rig.app.address).await?.address()?;
    let ping = frame(PING, NONE, 0, &[0; 8]);
    for (name, bytes) in [
        (
            "another preface",
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
        ),
        ("no settings", [PREFACE, &ping].concat()),
        (
            "HTTP/1 behind the preface",
            [PREFACE, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"].concat(),
        ),
    ] {
        let mut wire = Wire::connect(address).await?;
        wire.write(&bytes).await?;
        loop {
            let frame = wire.read().await.context(name)?;
            let Some(frame) = frame else { break };
            ensure!(
                matches!(frame.kind, SETTINGS | GOAWAY | WINDOW_UPDATE),
                "{name}: {frame:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn windows_are_kept_to() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let address = public(&rig, rig.app.address).await?.address()?;
    let mut wire = Wire::open(address).await?;
    // A window of one byte for every stream (§6.9.2).
    wire.write(&frame(SETTINGS, NONE, 0, &[0, 4, 0, 0, 0, 1]))
        .await?;
    wire.until(|frame| frame.kind == SETTINGS && frame.flags == 1)
        .await?;
    wire.write(&frame(HEADERS, WHOLE, 1, &request("GET", "/download/5")))
        .await?;
    for sent in 1..=5 {
        let data = wire
            .until(|frame| frame.kind == DATA && !frame.payload.is_empty())
            .await?;
        ensure!(data.payload.len() == 1, "{data:?} of a window of one");
        if sent < 5 {
            wire.write(&frame(WINDOW_UPDATE, NONE, 1, &[0, 0, 0, 1]))
                .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn streams_and_headers_have_limits() -> Result<()> {
    let sections = "[http2]\nmax_streams = 4\nmax_header_list = \"8KiB\"\n";
    let rig = Rig::start(Parts::embedded().worker(sections)).await?;
    let address = public(&rig, rig.app.address).await?.address()?;
    let mut wire = Wire::open(address).await?;
    for stream in [1, 3, 5, 7, 9] {
        // Nothing is released, so that none of these answers ends.
        let head = request("GET", "/pieces/1");
        wire.write(&frame(HEADERS, WHOLE, stream, &head)).await?;
    }
    let refused = wire.until(|frame| frame.kind == RST_STREAM).await?;
    assert_eq!((refused.stream, refused.code()), (9, Some(REFUSED_STREAM)));

    let mut wire = Wire::open(address).await?;
    let mut head = request("GET", "/too-much");
    head.extend(header("x", &[b'y'; 9_000]));
    wire.write(&frame(HEADERS, WHOLE, 1, &head)).await?;
    let answer = wire
        .until(|frame| matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY))
        .await?;
    ensure!(
        answer.kind != HEADERS || answer.payload.first() != Some(&0x88),
        "{answer:?}"
    );
    ensure!(rig.app.seen("/too-much").is_empty(), "it reached the app");
    Ok(())
}

#[tokio::test]
async fn requests_share_a_connection_and_reach_an_app_of_http1() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let address = public(&rig, rig.app.address).await?.address()?;
    let mut wire = Wire::open(address).await?;
    let cookies = block(&[("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")]);
    for number in 0..50 {
        let head = [
            request("GET", &format!("/shared/{number}")),
            cookies.clone(),
        ]
        .concat();
        wire.write(&frame(HEADERS, WHOLE, 2 * number + 1, &head))
            .await?;
    }
    for _ in 0..50 {
        let answer = wire.until(|frame| frame.kind == HEADERS).await?;
        ensure!(answer.payload.first() == Some(&0x88), "{answer:?}");
    }
    let seen = rig.app.seen("/shared/7");
    let seen = seen.first().context("nothing seen")?;
    assert_eq!(seen.header("host"), "h");
    // Browsers send crumbs of cookies, apps of HTTP/1 want one (§8.2.3).
    assert_eq!(seen.header("cookie"), "a=1; b=2");
    assert_eq!(seen.header("te"), "");
    Ok(())
}
