//! Answers are compressed for clients that want it: the right ones, once, and without holding any
//! of them back.

use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::app::{App, text_of};
use patchbay_tests::browser::{Answer, client};
use patchbay_tests::gateway::{Gateway, service};
use reqwest::Method;

use crate::report_figure;

const CODINGS: [&str; 3] = ["gzip", "br", "zstd"];

async fn gate(app: &App, settings: &str) -> Result<Gateway> {
    let service = service("app", &[app]);
    let route = "[gateway.routes.app]\nservice = \"app\"\nmiddleware = [\"small\"]\n";
    Gateway::start(&format!(
        "{service}{route}[gateway.middleware.small.compress]\n{settings}"
    ))
    .await
}

/// As much as there is of it.
fn decode(coding: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut reader: Box<dyn std::io::Read + '_> = match coding {
        "gzip" => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        "br" => Box::new(brotli::Decompressor::new(bytes, 4_096)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(bytes)?),
        other => anyhow::bail!("`{other}` is no coding"),
    };
    let (mut out, mut piece) = (Vec::new(), [0; 4_096]);
    while let Ok(read @ 1..) = reader.read(&mut piece) {
        out.extend_from_slice(&piece[..read]);
    }
    Ok(out)
}

fn is_as_it_was(answer: &Answer) -> bool {
    answer.header("etag") == "\"v1\"" && answer.header("accept-ranges") == "bytes"
}

#[tokio::test]
async fn who_wants_it_gets_the_same_in_fewer_bytes() -> Result<()> {
    const SIZE: usize = 200_000;
    let app = App::start().await?;
    let gateway = gate(&app, "").await?;
    let path = format!("/text/{SIZE}");
    for coding in CODINGS {
        let headers = [("accept-encoding", coding)];
        let answer = gateway.get(&path, &headers).await?.expect(200)?;
        assert_eq!(answer.header("content-encoding"), coding);
        assert_eq!(answer.header("vary"), "Accept-Encoding");
        assert_eq!(answer.header("etag"), "W/\"v1\"");
        assert_eq!(answer.header("accept-ranges"), "");
        ensure!(
            answer.body.len() < SIZE / 2,
            "{coding}: {}",
            answer.body.len()
        );
        ensure!(decode(coding, &answer.body)? == text_of(SIZE), "{coding}");
        // The service may be asked the same.
        assert_eq!(app.seen(&path)[0].header("accept-encoding"), "gzip");
    }
    let most = [("accept-encoding", "gzip;q=0.5, br;q=0.9, zstd;q=0.1")];
    let answer = gateway.get(&path, &most).await?.expect(200)?;
    assert_eq!(answer.header("content-encoding"), "br");
    // Who does not want it gets it as it was, and caches learn that others might.
    for other in ["identity", "gzip;q=0", "deflate"] {
        let answer = gateway.get(&path, &[("accept-encoding", other)]).await?;
        assert_eq!(answer.header("content-encoding"), "", "{other}");
        assert_eq!(answer.header("vary"), "Accept-Encoding");
        ensure!(is_as_it_was(&answer), "{:?}", answer.headers);
        assert_eq!(answer.header("content-length"), SIZE.to_string());
        ensure!(answer.body == text_of(SIZE), "{other}");
    }
    Ok(())
}

#[tokio::test]
async fn and_everything_else_stays_as_it_is() -> Result<()> {
    let app = App::start().await?;
    let gateway = gate(&app, "").await?;
    let wants = ("accept-encoding", "gzip, br, zstd");
    for other in [
        ("x-answer-content-encoding", "br"),
        ("x-answer-cache-control", "public, no-transform"),
        ("x-answer-content-type", "image/png"),
        ("x-answer-content-type", "text/event-stream"),
        ("cache-control", "no-transform"),
        ("range", "bytes=0-"),
    ] {
        let answer = gateway.get("/text/5000", &[wants, other]).await?;
        ensure!(is_as_it_was(&answer), "{other:?}: {:?}", answer.headers);
        ensure!(answer.body == text_of(5_000), "{other:?}");
    }
    let small = gateway.get("/text/1023", &[wants]).await?.expect(200)?;
    ensure!(is_as_it_was(&small), "{:?}", small.headers);
    let head = gateway.ask(Method::HEAD, "/text/5000", &[wants]).await?;
    assert_eq!(head.header("content-encoding"), "");
    assert_eq!(head.header("content-length"), "5000");
    let nothing = gateway.get("/status/204", &[wants]).await?.expect(204)?;
    assert_eq!(nothing.header("content-encoding"), "");

    // A WebSocket passes untouched, and an answer that is no WebSocket after all as well.
    assert_eq!(gateway.upgrade("/ws/first", &[wants]).await?, 101);
    assert_eq!(gateway.upgrade("/text/5000", &[wants]).await?, 200);
    Ok(())
}

#[tokio::test]
async fn a_stream_is_not_held_back() -> Result<()> {
    let app = App::start().await?;
    let gateway = gate(&app, "event_streams = true\n").await?;
    let url = format!("http://{}/events/3", gateway.address());
    for coding in CODINGS {
        let request = client()?.get(&url).header("accept-encoding", coding);
        app.release(1);
        let mut answer = request.send().await?;
        assert_eq!(answer.headers()["content-encoding"], coding);
        let mut sent = Vec::new();
        for event in 0..3 {
            let wanted = format!("data: event {event}\n\n");
            while !decode(coding, &sent)?.ends_with(wanted.as_bytes()) {
                let piece = tokio::time::timeout(Duration::from_secs(10), answer.chunk());
                let piece = piece.await.context("the event is held back")??;
                sent.extend_from_slice(&piece.context("the stream has ended")?);
            }
            app.release(usize::from(event < 2));
        }
        while let Some(piece) = answer.chunk().await? {
            sent.extend_from_slice(&piece);
        }
        ensure!(decode(coding, &sent)?.ends_with(b"event 2\n\n"), "{coding}");
    }
    Ok(())
}

#[tokio::test]
async fn memory_does_not_grow_with_the_answer() -> Result<()> {
    const SIZE: usize = 48 << 20;
    let app = App::start().await?;
    let gateway = gate(&app, "codings = [\"zstd\"]\n").await?;
    let resident = || -> Result<u64> {
        let pid = gateway.program.pid()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kilobytes.context("no VmHWM")?.parse()?)
    };
    gateway
        .get("/text/5000", &[("accept-encoding", "zstd")])
        .await?
        .expect(200)?;
    let before = resident()?;
    let url = format!("http://{}/text/{SIZE}", gateway.address());
    let request = client()?.get(&url).header("accept-encoding", "zstd");
    let mut answer = request.send().await?;
    let mut sent = 0;
    while let Some(piece) = answer.chunk().await? {
        sent += piece.len();
    }
    let grown = resident()?.saturating_sub(before);
    report_figure(format_args!(
        "{} MB became {:.1} MB; the gateway grew by {grown} KB meanwhile",
        SIZE >> 20,
        sent as f64 / f64::from(1 << 20)
    ));
    ensure!(sent > 0 && sent < SIZE / 2, "{sent}");
    ensure!(grown < 16 << 10, "{grown} KB");
    Ok(())
}
