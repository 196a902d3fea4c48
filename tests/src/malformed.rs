//! Requests of HTTP/1 that mean one thing to one reader and another to the next, or nothing at
//! all (RFC 9112; CWE-444): what any engine of the worker has to refuse. A table, so that every
//! engine can be held against it.
//!
//! After each come two whole requests on the same connection. Nothing of them may be taken for
//! requests: behind a broken one nobody knows where the next begins.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::recorder::Recorder;

/// Longest until a connection is answered and ended.
const PATIENCE: Duration = Duration::from_secs(15);

/// Two bodies' worth of what an attacker would want to be taken for requests.
const FOLLOWING: &str = "GET /smuggled-1 HTTP/1.1\r\nHost: h\r\n\r\n\
                         GET /smuggled-2 HTTP/1.1\r\nHost: h\r\n\r\n";

/// What has to become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is answered with a refusal, nothing of it reaches the app, and the connection ends.
    Refused,
    /// Its head is in order and may reach the app; its body is not, and neither the rest of it nor
    /// what follows does. The connection ends.
    Cut,
    /// The connection ends, with or without an answer, and nothing reaches the app.
    Ended,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is wrong with it.
    pub name: String,
    /// Its bytes; its path is `/case`.
    pub bytes: Vec<u8>,
    /// What has to become of it.
    pub expected: Expected,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(request_lines());
    all.extend(line_ends());
    all.extend(headers());
    all.extend(lengths());
    all.extend(codings());
    all.extend(too_much());
    // Last: the heads of these may reach the app, and late.
    all.extend(chunks());
    all
}

fn case(expected: Expected, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Case {
    Case {
        name: name.into(),
        bytes: bytes.into(),
        expected,
    }
}

fn refused(name: &str, bytes: &str) -> Case {
    case(Expected::Refused, name, bytes)
}

fn request_lines() -> Vec<Case> {
    let lines = [
        ("two spaces after the method", "GET  /case HTTP/1.1"),
        ("two spaces before the version", "GET /case  HTTP/1.1"),
        ("a space before the method", " GET /case HTTP/1.1"),
        ("a tab after the method", "GET\t/case HTTP/1.1"),
        ("a tab before the version", "GET /case\tHTTP/1.1"),
        ("a space after the version", "GET /case HTTP/1.1 "),
        ("a space in the target", "GET /case x HTTP/1.1"),
        ("no version", "GET /case"),
        ("half a version", "GET /case HTTP/1"),
        ("too much of a version", "GET /case HTTP/1.1.1"),
        ("version 2", "GET /case HTTP/2.0"),
        ("version 3", "GET /case HTTP/3.0"),
        ("version 0.9 by name", "GET /case HTTP/0.9"),
        ("a version in small letters", "GET /case http/1.1"),
        ("a version with a zero in front", "GET /case HTTP/01.1"),
        ("a version with a zero within", "GET /case HTTP/1.01"),
        ("a space within the version", "GET /case HTTP /1.1"),
        ("a version with a comma", "GET /case HTTP/1,1"),
        ("a version of another protocol", "GET /case ICY/1.1"),
        ("a NUL in the method", "G\0T /case HTTP/1.1"),
        ("a NUL in the target", "GET /case\0 HTTP/1.1"),
        ("a control in the target", "GET /case\x01 HTTP/1.1"),
        ("a DEL in the target", "GET /case\x7f HTTP/1.1"),
        ("a vertical tab in the target", "GET /case\x0b HTTP/1.1"),
        ("a bracket in the method", "G(T /case HTTP/1.1"),
        ("a colon in the method", "GET: /case HTTP/1.1"),
        ("no method", "/case HTTP/1.1"),
        ("an empty method", " /case HTTP/1.1"),
        ("no target", "GET HTTP/1.1"),
        ("an empty target", "GET  HTTP/1.1"),
        ("a target without its slash", "GET case HTTP/1.1"),
        (
            "an asterisk for something else than OPTIONS",
            "GET * HTTP/1.1",
        ),
        ("a request for a tunnel", "CONNECT h:80 HTTP/1.1"),
        (
            "an absolute target without a host",
            "GET http:///case HTTP/1.1",
        ),
        (
            "an absolute target with user information",
            "GET http://u@h/case HTTP/1.1",
        ),
        ("a CR in the target", "GET /case\rx HTTP/1.1"),
    ];
    let all = lines.map(|(name, line)| refused(name, &format!("{line}\r\nHost: h\r\n\r\n")));
    let preface = "PRI * HTTP/1.1\r\nHost: h\r\n\r\n";
    let preface = case(Expected::Ended, "a broken preface of HTTP/2", preface);
    all.into_iter().chain([preface]).collect()
}

fn line_ends() -> Vec<Case> {
    vec![
        refused("LF alone everywhere", "GET /case HTTP/1.1\nHost: h\n\n"),
        refused(
            "LF alone after the request line",
            "GET /case HTTP/1.1\nHost: h\r\n\r\n",
        ),
        refused(
            "LF alone after a header",
            "GET /case HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
        ),
        refused(
            "LF alone at the end of the head",
            "GET /case HTTP/1.1\r\nHost: h\r\n\n",
        ),
        refused(
            "CR alone after a header",
            "GET /case HTTP/1.1\r\nHost: h\rX: y\r\n\r\n",
        ),
        refused(
            "two CRs after a header",
            "GET /case HTTP/1.1\r\nHost: h\r\r\n\r\n",
        ),
        refused(
            "LF CR after a header",
            "GET /case HTTP/1.1\r\nHost: h\n\rX: y\r\n\r\n",
        ),
        refused(
            "CR in a value",
            "GET /case HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
        ),
        refused(
            "a header behind CR alone",
            "POST /case HTTP/1.1\r\nHost: h\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n",
        ),
    ]
}

fn headers() -> Vec<Case> {
    let heads = [
        ("a NUL in a value", "Host: h\r\nX: a\0b"),
        ("a control in a value", "Host: h\r\nX: a\x01b"),
        ("a DEL in a value", "Host: h\r\nX: a\x7fb"),
        ("a NUL in a name", "Host: h\r\nX\0: y"),
        ("no Host", "X: y"),
        ("one Host twice", "Host: h\r\nHost: h"),
        ("two Hosts", "Host: h\r\nHost: other"),
        ("a Host with a space", "Host: h other"),
        ("a Host with a path", "Host: h/other"),
        ("a Host with user information", "Host: u@h"),
        ("a list of Hosts", "Host: h, other"),
        ("a Host with a port that is none", "Host: h:other"),
        ("a Host with two ports", "Host: h:80:81"),
        ("a Host with half a bracket", "Host: [::1"),
        ("a Host with a query", "Host: h?x"),
        ("a space before the colon", "Host: h\r\nX : y"),
        ("a tab before the colon", "Host: h\r\nX\t: y"),
        ("a space before the colon of Host", "Host : h"),
        ("an empty name", "Host: h\r\n: y"),
        ("a space in a name", "Host: h\r\nX Y: z"),
        ("a bracket in a name", "Host: h\r\nX(Y): z"),
        ("a quote in a name", "Host: h\r\nX\"Y: z"),
        ("a slash in a name", "Host: h\r\nX/Y: z"),
        ("a name that is not ASCII", "Host: h\r\nX\u{e9}: z"),
        ("no colon", "Host: h\r\nXY"),
        ("a space before the first header", " Host: h"),
        ("a folded header", "Host: h\r\nX: y\r\n z"),
        ("a header folded by a tab", "Host: h\r\nX: y\r\n\tz"),
        (
            "a folded framing",
            "Host: h\r\nTransfer-Encoding:\r\n chunked",
        ),
    ];
    let all =
        heads.map(|(name, head)| refused(name, &format!("GET /case HTTP/1.1\r\n{head}\r\n\r\n")));
    all.into_iter().collect()
}

fn lengths() -> Vec<Case> {
    let lengths = [
        "+5",
        "-5",
        "0x5",
        "5,5",
        "5, 6",
        "5 5",
        "",
        "5a",
        "5.0",
        "1e1",
        "\x0b5",
        "'5'",
        "\u{ff15}",
        "99999999999999999999999999",
        "18446744073709551616",
        "-0",
        "5;5",
        "null",
    ];
    let one = lengths.map(|length| {
        let bytes =
            format!("POST /case HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\nhello");
        refused(&format!("a Content-Length of {length:?}"), &bytes)
    });
    let framings = [
        (
            "one Content-Length twice",
            "Content-Length: 5\r\nContent-Length: 5",
        ),
        (
            "two Content-Lengths",
            "Content-Length: 5\r\nContent-Length: 6",
        ),
        (
            "two Content-Lengths, one of nothing",
            "Content-Length: 0\r\nContent-Length: 5",
        ),
        (
            "two Content-Lengths in two cases",
            "Content-Length: 5\r\ncontent-length: 5",
        ),
        (
            "a length with a space before its colon",
            "Content-Length : 5",
        ),
        (
            "a length, then a coding",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
        ),
        (
            "a coding, then a length",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
        ),
        (
            "a length of nothing and a coding",
            "Content-Length: 0\r\nTransfer-Encoding: chunked",
        ),
        (
            "a length and a coding nobody knows",
            "Content-Length: 5\r\nTransfer-Encoding: cow",
        ),
    ];
    let two = framings.map(|(name, framing)| {
        let bytes = format!("POST /case HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n0\r\n\r\n");
        refused(name, &bytes)
    });
    one.into_iter().chain(two).collect()
}

fn codings() -> Vec<Case> {
    let codings = [
        "chunked, chunked",
        "chunked, identity",
        "chunked, gzip",
        "identity",
        "identity, chunked",
        "cow",
        "xchunked",
        "chunkedx",
        "chunked;x=y",
        "\"chunked\"",
        "\x0bchunked",
        "chunked\x0b",
        "chunked\u{a0}",
        "",
        ",",
        "chu nked",
    ];
    let one = codings.map(|coding| {
        let head = format!("POST /case HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: {coding}");
        refused(
            &format!("a Transfer-Encoding of {coding:?}"),
            &format!("{head}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        )
    });
    let more = [
        (
            "chunked twice",
            "1.1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ),
        (
            "chunked, then identity",
            "1.1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        ),
        (
            "identity, then chunked",
            "1.1",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        ),
        (
            "chunked, then a cow",
            "1.1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
        ),
        (
            "a coding with a space before its colon",
            "1.1",
            "Transfer-Encoding : chunked",
        ),
        (
            "a coding in version 1.0",
            "1.0",
            "Transfer-Encoding: chunked",
        ),
        (
            "a coding and a length in version 1.0",
            "1.0",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
        ),
    ];
    let two = more.map(|(name, version, framing)| {
        let head = format!("POST /case HTTP/{version}\r\nHost: h\r\n{framing}");
        refused(name, &format!("{head}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
    });
    one.into_iter().chain(two).collect()
}

fn chunks() -> Vec<Case> {
    let bodies = [
        ("a size that is no number", "g\r\nhello\r\n0\r\n\r\n"),
        ("a size below nothing", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a size with a plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("an empty size", "\r\nhello\r\n0\r\n\r\n"),
        (
            "a size beyond all bounds",
            "FFFFFFFFFFFFFFFFFF5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a size that wraps around",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
        ),
        ("LF alone after a size", "5\nhello\r\n0\r\n\r\n"),
        ("CR alone after a size", "5\rhello\r\n0\r\n\r\n"),
        ("nothing after a chunk", "5\r\nhello0\r\n\r\n"),
        ("LF alone after a chunk", "5\r\nhello\n0\r\n\r\n"),
        (
            "a chunk longer than its size",
            "5\r\nhello, world\r\n0\r\n\r\n",
        ),
        ("LF alone in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("CR alone in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("two sizes", "5 5\r\nhello\r\n0\r\n\r\n"),
        ("a size of nothing with LF alone", "5\r\nhello\r\n0\n\n"),
    ];
    let all = bodies.map(|(name, body)| {
        let head = "POST /case HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked";
        case(Expected::Cut, name, format!("{head}\r\n\r\n{body}"))
    });
    all.into_iter().collect()
}

fn too_much() -> Vec<Case> {
    const MANY: usize = 1_100_000;
    let many: String = (0..300).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = "x".repeat(MANY);
    vec![
        refused(
            "300 headers",
            &format!("GET /case HTTP/1.1\r\nHost: h\r\n{many}\r\n"),
        ),
        case(
            Expected::Ended,
            "a header of a megabyte",
            format!("GET /case HTTP/1.1\r\nHost: h\r\nX: {long}\r\n\r\n"),
        ),
        case(
            Expected::Ended,
            "a target of a megabyte",
            format!("GET /case?{long} HTTP/1.1\r\nHost: h\r\n\r\n"),
        ),
    ]
}

/// Sends a case to a frontend whose app is `recorder`, and says what is wrong with what came of
/// it.
///
/// # Errors
/// What is wrong.
pub async fn hold(case: &Case, address: SocketAddr, recorder: &Recorder) -> Result<()> {
    recorder.take();
    let stream = TcpStream::connect(address).await?;
    let (mut reader, mut writer) = stream.into_split();
    let bytes = [&case.bytes[..], FOLLOWING.as_bytes()].concat();
    let write = async {
        // It may be refused before it has been sent.
        let _ = writer.write_all(&bytes).await;
    };
    let mut answer = Vec::new();
    let read = async {
        // A connection that is broken off is at an end, too.
        let _ = reader.read_to_end(&mut answer).await;
    };
    let both = async { tokio::join!(write, read) };
    let over = tokio::time::timeout(PATIENCE, both).await;
    over.context("the connection stays open")?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let seen = recorder.text();
    ensure!(
        !seen.contains("smuggled"),
        "the app got what follows: {seen}"
    );
    if case.expected != Expected::Cut {
        ensure!(seen.is_empty(), "the app got {seen:?}");
    }
    let answers = answer.matches("HTTP/1.1 ").count();
    ensure!(answers <= 1, "more than one answer: {answer}");
    if case.expected == Expected::Refused {
        let status = answer.split(' ').nth(1).unwrap_or_default();
        let refusals = ["400", "405", "413", "414", "431", "501", "505"];
        ensure!(refusals.contains(&status), "answered by {answer:?}");
    }
    Ok(())
}
