//! What apps do, and what they should not.

use super::{Case, LAST};

const GET: &str = "GET /case HTTP/1.1\r\nHost: h\r\n\r\n";

/// An app's answer, to a client that asks for something else behind it.
fn answer(name: &'static str, answer: impl Into<Vec<u8>>) -> Case {
    Case::new(name, format!("{GET}{LAST}"))
        .answered(answer)
        .gives("200 [200]", "hello")
}

/// An app that says something which is no answer.
fn refused(name: &'static str, answer: impl Into<Vec<u8>>) -> Case {
    let case = Case::new(name, format!("{GET}{LAST}"))
        .answered(answer)
        .closing();
    case.gives("502 [200]", "")
}

/// All cases.
pub(super) fn cases() -> Vec<Case> {
    [
        bodies(),
        no_bodies(),
        interim(),
        framings(),
        broken(),
        lines(),
        heads(),
    ]
    .concat()
}

fn bodies() -> Vec<Case> {
    vec![
        answer("9112, 6.2: by its length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        answer("9112, 7.1: in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        answer("9112, 7.1: in chunks, capitals and zeros", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n0005\r\nhello\r\n000\r\n\r\n"),
        answer("9112, 7.1.1: in chunks with extensions", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n"),
        answer("9112, 7.1.2: in chunks with trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"),
        answer("9112, 6.3: until the app closes", "HTTP/1.1 200 OK\r\n\r\nhello").closing(),
        answer("9112, 6.3: until an app of version 1.0 closes", "HTTP/1.0 200 OK\r\n\r\nhello").closing(),
        answer("9112, 9.3: an app that closes", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").closing(),
        answer("9112, 9.3: an app of version 1.0 that keeps", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello"),
        answer("9112, 6.3: more than was announced", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 299 Poison\r\nContent-Length: 0\r\n\r\n")
            .nobody_gets(&["poison"]),
        answer("9112, 7.1: more than the last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nHTTP/1.1 299 Poison\r\nContent-Length: 0\r\n\r\n")
            .nobody_gets(&["poison"]),
        answer("9110, 15.5: an error is passed on", "HTTP/1.1 404 Not Here\r\nContent-Length: 5\r\n\r\nhello").gives("404 [200]", ""),
        answer("9110, 15: a status nobody has heard of", "HTTP/1.1 299 Odd\r\nContent-Length: 5\r\n\r\nhello").gives("299 [200]", "hello"),
    ]
}

fn no_bodies() -> Vec<Case> {
    const POISON: &str = "HTTP/1.1 299 Poison\r\nContent-Length: 0\r\n\r\n";
    let head = |name, answer: String| {
        let request = format!("HEAD /case HTTP/1.1\r\nHost: h\r\n\r\n{LAST}");
        Case::new(name, request)
            .answered(answer)
            .gives("200 [200]", "")
            .nobody_gets(&["poison"])
    };
    vec![
        answer(
            "9110, 15.3.5: 204 has no body",
            "HTTP/1.1 204 No Content\r\n\r\n",
        )
        .gives("204 [200]", ""),
        answer(
            "9112, 6.3: 204 with a body that is none",
            format!("HTTP/1.1 204 No Content\r\n\r\n{POISON}"),
        )
        .gives("204 [200]", "")
        .nobody_gets(&["poison"]),
        answer(
            "9110, 15.4.5: 304 has no body",
            "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
        )
        .gives("304 [200]", ""),
        answer(
            "9110, 8.6: 304 may say how long it would be",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        )
        .gives("304 [200]", ""),
        answer(
            "9112, 6.3: 304 with a body that is none",
            format!(
                "HTTP/1.1 304 Not Modified\r\nContent-Length: {}\r\n\r\n{POISON}",
                POISON.len()
            ),
        )
        .gives("304 [200]", "")
        .nobody_gets(&["poison"]),
        head(
            "9110, 9.3.2: HEAD says how long it would be",
            "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n".into(),
        ),
        head(
            "9112, 6.3: HEAD in chunks that do not come",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        ),
        head(
            "9112, 6.3: HEAD with a body that is none",
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{POISON}",
                POISON.len()
            ),
        ),
    ]
}

fn interim() -> Vec<Case> {
    const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    vec![
        answer("9110, 15.2: an early hint", format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{HELLO}")).gives("[103] 200 [200]", "hello"),
        answer("9110, 15.2: three of them", format!("{}{HELLO}", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(3))).gives("[103] [103] [103] 200 [200]", "hello"),
        answer("9110, 15.2.1: 100 that nobody waits for", format!("HTTP/1.1 100 Continue\r\n\r\n{HELLO}")).gives("[100] 200 [200]", "hello"),
        answer("9110, 15.2.2: another protocol that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: poison\r\n\r\npoison")
            .closing().gives("502 [200]", "").nobody_gets(&["poison"]),
        Case::new("9110, 15.2: none for version 1.0", "GET /case HTTP/1.0\r\nHost: h\r\n\r\n").answered(format!("HTTP/1.1 103 Early Hints\r\n\r\n{HELLO}")).gives("200", "hello"),
    ]
}

fn framings() -> Vec<Case> {
    let framed = |name, framing: &str| {
        refused(
            name,
            format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        )
    };
    vec![
        framed(
            "9112, 6.3: a length and a coding",
            "Content-Length: 15\r\nTransfer-Encoding: chunked",
        )
        .gives("200|502 [200]", "hello"),
        framed(
            "9112, 6.3: a coding and a length",
            "Transfer-Encoding: chunked\r\nContent-Length: 15",
        )
        .gives("200|502 [200]", "hello"),
        framed(
            "9112, 6.3: two lengths",
            "Content-Length: 15\r\nContent-Length: 5",
        ),
        framed("9112, 6.3: a length that is none", "Content-Length: x"),
        framed("9112, 6.3: a length below nothing", "Content-Length: -5"),
        framed("9112, 6.3: a length with a plus", "Content-Length: +5"),
        framed(
            "9112, 6.3: a length beyond all bounds",
            "Content-Length: 99999999999999999999",
        ),
        framed("9112, 6.3: a length in two numbers", "Content-Length: 5, 6"),
        framed("9112, 6.1: a coding nobody knows", "Transfer-Encoding: cow"),
        framed(
            "9112, 6.1: chunks and then another coding",
            "Transfer-Encoding: chunked, gzip",
        ),
        framed(
            "9112, 6.1: chunks twice",
            "Transfer-Encoding: chunked, chunked",
        ),
        framed(
            "9112, 6.1: a coding that looks like chunks",
            "Transfer-Encoding: xchunked",
        ),
    ]
}

fn broken() -> Vec<Case> {
    let chunks = |name, body: &str| {
        answer(
            name,
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n{body}"),
        )
        .closing()
        .gives("200|502", "")
        .cut()
    };
    vec![
        answer(
            "9112, 8: less than was announced",
            "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
        )
        .closing()
        .gives("200|502", "")
        .cut(),
        chunks("9112, 8: no last chunk", ""),
        chunks("9112, 8: a chunk that breaks off", "5\r\nhe"),
        chunks(
            "9112, 7.1: a size that is no number",
            "x\r\nhello\r\n0\r\n\r\n",
        ),
        chunks(
            "9112, 7.1: a size below nothing",
            "-1\r\nhello\r\n0\r\n\r\n",
        ),
        chunks(
            "9112, 7.1: a size beyond all bounds",
            "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        ),
        chunks("9112, 7.1: nothing after a chunk", "5\r\nhello0\r\n\r\n"),
        chunks("9112, 8: an end that is not whole", "0\r\n"),
        refused("9112, 8: nothing at all", ""),
        refused("9112, 8: half a head", "HTTP/1.1 200 OK\r\nContent-Le"),
    ]
}

fn lines() -> Vec<Case> {
    let line =
        |name, line: &str| refused(name, format!("{line}\r\nContent-Length: 5\r\n\r\nhello"));
    let fine = |name, line: &str| answer(name, format!("{line}\r\nContent-Length: 5\r\n\r\nhello"));
    vec![
        fine("9112, 4: no reason", "HTTP/1.1 200 "),
        fine("9112, 4: no reason and no space", "HTTP/1.1 200"),
        fine("9112, 4: a long reason", "HTTP/1.1 200 As You Like It, Sir"),
        line("9112, 4: a status of two digits", "HTTP/1.1 20 OK"),
        line("9112, 4: a status of four digits", "HTTP/1.1 2000 OK"),
        line("9112, 4: a status that is no number", "HTTP/1.1 abc OK"),
        line("9112, 4: no status", "HTTP/1.1 OK"),
        line("9112, 2.3: version 2", "HTTP/2.0 200 OK"),
        line("9112, 2.3: another protocol", "ICY 200 OK"),
        line("9112, 4: a control in the reason", "HTTP/1.1 200 O\x01K"),
        line("9112, 4: something else altogether", "hello"),
    ]
}

fn heads() -> Vec<Case> {
    let head = |name, header: &[u8]| {
        let bytes = [
            &b"HTTP/1.1 200 OK\r\n"[..],
            header,
            b"\r\nContent-Length: 5\r\n\r\nhello",
        ]
        .concat();
        refused(name, bytes)
    };
    let many = "X-A: y\r\n".repeat(2_000);
    vec![
        head("9110, 5.5: a NUL in a value", b"X: a\0b"),
        head("9110, 5.5: a CR in a value", b"X: a\rb"),
        head("9110, 5.1: a space in a name", b"X Y: z"),
        head("9110, 5.1: no name", b": z"),
        head("9112, 5: no colon", b"XY"),
        answer("9112, 5.2: a folded header is unfolded or refused", "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 5\r\n\r\nhello")
            .gives("200|502 [200]", "hello").nobody_gets(&["\r\n c"]),
        answer("9110, 7.6.1: what Connection names stays here", "HTTP/1.1 200 OK\r\nConnection: X-A\r\nX-A: hop\r\nContent-Length: 5\r\n\r\nhello").nobody_gets(&["x-a: hop"]),
        answer("9110, 7.6.1: what is of one connection stays here", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=77\r\nProxy-Connection: x\r\nContent-Length: 5\r\n\r\nhello").nobody_gets(&["timeout=77", "proxy-connection"]),
        answer("9110, 5.3: cookies stay apart", "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 5\r\n\r\nhello").nobody_gets(&["a=b, c=d"]),
        refused("9110, 5.4: more headers than anybody means", format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 5\r\n\r\nhello")),
    ]
}
