//! What the lane takes for plain, how it reads framings, and what it writes.

use super::chunks::Chunks;
use super::head::{Headers, Span};
use super::request::{self, Body, Reason, Request, Seen};
use super::response::{self, Framing};
use super::rewrite::{Added, Rewrite};
use crate::stage::{HeaderLookup as _, HeaderSink as _};

fn look(text: &str) -> Seen {
    request::look(text.as_bytes(), &mut Vec::new())
}

fn request(text: &str) -> Request {
    match look(text) {
        Seen::Plain(request) => request,
        other => panic!("{text:?} is {other:?}"),
    }
}

#[test]
fn plain_requests_are_taken() {
    let get =
        "GET /a/b?c=d%20e HTTP/1.1\r\nHost: a.example:80\r\nAccept:*/*\r\nX-Empty:\r\n\r\nrest";
    let plain = request(get);
    assert_eq!(plain.method.text(get.as_bytes()), "GET");
    assert_eq!(plain.target.text(get.as_bytes()), "/a/b?c=d%20e");
    assert_eq!(plain.length, get.len() - "rest".len());
    assert_eq!((plain.body, plain.close), (Body::Length(0), false));
    let put = request("PUT / HTTP/1.1\r\nhost: [::1]\r\nCONTENT-LENGTH: 5\r\n\r\n");
    assert_eq!(put.body, Body::Length(5));
    let put = request("PUT / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked\r\n\r\n");
    assert_eq!(put.body, Body::Chunked);
    assert!(request("GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n").close);
    assert!(!request("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").close);
}

#[test]
fn a_head_is_the_same_however_it_arrives() {
    let whole = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX-Y: z\r\n\r\n";
    for end in 0..whole.len() {
        assert_eq!(look(&whole[..end]), Seen::Part, "{:?}", &whole[..end]);
    }
    assert_eq!(request(whole), request(&format!("{whole}abcGET /")));
}

/// Everything that smuggles, and everything the standard does not write so: none of it is
/// forwarded by the lane.
#[test]
fn whatever_is_doubtful_is_handed_over() {
    for (head, reason) in [
        ("GET / HTTP/1.1\nHost: a\n\n", Reason::Form),
        ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", Reason::Form),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\n", Reason::Form),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Form),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Form),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Reason::Form),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Version),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Reason::Form),
        (
            "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
            Reason::Form,
        ),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Reason::Form),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Reason::Form),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Reason::Form),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Reason::Form),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", Reason::Version),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Reason::Version),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Reason::Version),
        ("GET /\r\n\r\n", Reason::Form),
    ] {
        assert_eq!(look(head), Seen::Other(reason), "{head:?}");
    }
}

#[test]
fn what_is_unusual_is_handed_over() {
    for (head, reason) in [
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Method),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Method),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Method),
        ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Target),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Target),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Target),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Target),
        (
            "GET /\"<>\\^`{|} HTTP/1.1\r\nHost: a\r\n\r\n",
            Reason::Target,
        ),
        ("GET / HTTP/1.1\r\n\r\n", Reason::Host),
        ("GET / HTTP/1.1\r\nHost: \r\n\r\n", Reason::Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Reason::Host),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Reason::Host),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Reason::Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Reason::Host),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
            Reason::Upgrade,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHTTP2-Settings: x\r\n\r\n",
            Reason::Upgrade,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
            Reason::Expect,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
            Reason::Connection,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Y\r\n\r\n",
            Reason::Connection,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, te\r\n\r\n",
            Reason::Connection,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: close\r\n\r\n",
            Reason::Connection,
        ),
    ] {
        assert_eq!(look(head), Seen::Other(reason), "{head:?}");
    }
}

#[test]
fn a_body_of_doubtful_length_is_handed_over() {
    for framing in [
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 1",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked;x",
        "Transfer-Encoding:",
        "Transfer-Encoding: identity",
        "transfer-encoding: xchunked",
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Content-Length: 1\r\nContent-Length: 1",
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 1, 1",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: 0x1",
        "Content-Length: 1 1",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        assert_eq!(look(&head), Seen::Other(Reason::Body), "{framing}");
    }
    let get = "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(look(get), Seen::Other(Reason::Body));
    // A name with a space is no name at all.
    let spaced = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\n";
    assert_eq!(look(spaced), Seen::Other(Reason::Form));
}

#[test]
fn long_heads_are_handed_over() {
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "y".repeat(8_192)
    );
    assert_eq!(look(&long), Seen::Other(Reason::Long));
    assert_eq!(look(&long[..8_192]), Seen::Other(Reason::Long));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(64));
    assert_eq!(look(&many), Seen::Other(Reason::Long));
    request(&format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(63)
    ));
}

fn framing(head: &str) -> Option<(Framing, bool)> {
    let head = format!("{head}\r\n\r\n");
    let seen = response::look(head.as_bytes(), false, &mut Vec::new());
    let answer = seen.ok()?.unwrap();
    Some((answer.framing, answer.keeps))
}

#[test]
fn answers_end_as_the_standard_says() {
    let chunked = Framing::Chunked(Chunks::new());
    for (head, expected) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 7",
            Some((Framing::Length(7), true)),
        ),
        (
            "HTTP/1.1 200\r\ncontent-length: 0",
            Some((Framing::Length(0), true)),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
            Some((chunked, true)),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked",
            Some((chunked, true)),
        ),
        ("HTTP/1.1 200 OK", Some((Framing::UntilClose, false))),
        (
            "HTTP/1.1 204 No\r\nContent-Length: 7",
            Some((Framing::Length(0), true)),
        ),
        (
            "HTTP/1.1 304 No\r\nTransfer-Encoding: chunked",
            Some((Framing::Length(0), true)),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: x, close",
            Some((Framing::Length(7), false)),
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 7",
            Some((Framing::Length(7), false)),
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 7\r\nConnection: Keep-Alive",
            Some((Framing::Length(7), true)),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked",
            None,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 7",
            None,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: seven", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked", None),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            None,
        ),
        ("SSH-2.0-OpenSSH", None),
    ] {
        assert_eq!(framing(head), expected, "{head}");
    }
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
    let look = |head, to_head| response::look(head, to_head, &mut Vec::new());
    let to_head = look(head, true).unwrap().unwrap();
    assert_eq!(to_head.framing, Framing::Length(0));
    for end in 0..head.len() {
        assert_eq!(look(&head[..end], false), Ok(None));
    }
}

/// Whether the body is well formed, and how much of it was data, when it comes in such pieces.
fn scan(pieces: &[&[u8]]) -> Result<(bool, usize, u64), super::chunks::BadChunk> {
    let mut chunks = Chunks::new();
    let mut taken = 0;
    for piece in pieces {
        let here = chunks.scan(piece, |_| {})?;
        taken += here;
        assert!(here == piece.len() || chunks.ended());
    }
    Ok((chunks.ended(), taken, chunks.data))
}

#[test]
fn chunks_end_where_they_end_however_they_are_cut() {
    for (body, data) in [
        ("0\r\n\r\n", 0),
        ("3\r\nabc\r\n0\r\n\r\n", 3),
        (
            "a;x=\"y\"\r\n0123456789\r\n000\r\nX-Sum: 1\r\nY: 2\r\n\r\n",
            10,
        ),
        ("1 \r\na\r\n1\r\n\n\r\n0;last\r\n\r\n", 2),
    ] {
        let stream = format!("{body}HTTP/1.1 200");
        let bytes = stream.as_bytes();
        let whole = Ok((true, body.len(), data));
        assert_eq!(scan(&[bytes]), whole, "{body:?}");
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(scan(&[first, second]), whole, "{body:?} cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(scan(&single), whole, "{body:?} byte by byte");
        for cut in 0..body.len() {
            let part = scan(&[&bytes[..cut]]).unwrap();
            assert!(!part.0, "{body:?} ended at {cut}");
        }
    }
}

#[test]
fn what_is_no_chunk_is_refused() {
    for body in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\na\r\n",
        "0x1\r\na\r\n",
        " 1\r\na\r\n",
        "1\na\n0\n\n",
        "1\r\nab\r\n",
        "1\r\na0\r\n\r\n",
        "1\r\na\r0\r\n\r\n",
        "0\r\n\n",
        "0\r\nX: y\n\r\n",
        "1;a\nb\r\na\r\n",
        "fffffffffffffffff\r\n",
        "1\r\na\r\n\r\n",
    ] {
        assert!(scan(&[body.as_bytes()]).is_err(), "{body:?}");
    }
    let endless = format!("1;{}", "x".repeat(5_000));
    assert!(scan(&[endless.as_bytes()]).is_err());
    let trailers = format!("0\r\n{}", "X: y\r\n".repeat(10_000));
    assert!(scan(&[trailers.as_bytes()]).is_err());
}

fn rewritten(head: &str, change: impl FnOnce(&mut Rewrite<'_>)) -> String {
    let mut fields = Vec::new();
    let bytes = head.as_bytes();
    let Seen::Plain(_) = request::look(bytes, &mut fields) else {
        panic!("{head:?} is not plain");
    };
    let mut added = Added::default();
    let headers = Headers {
        bytes,
        fields: &fields,
        neat_until: Some(bytes.len() - 2),
    };
    let mut rewrite = Rewrite::new(headers, &mut added);
    change(&mut rewrite);
    let mut out = Vec::new();
    rewrite.render(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn heads_are_rewritten() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nX-One:  1 \r\nx-ONE: 2\r\nKeep-Alive: x\r\n\
                Connection: keep-alive\r\nProxy-Connection: y\r\nZ: z\r\n\r\n";
    let out = rewritten(head, |rewrite| {
        rewrite.remove_hop_by_hop();
        rewrite.set("x-one", "3");
        rewrite.set("x-new", "4");
        rewrite.set("x-new", "5");
        rewrite.remove("z");
        assert_eq!(rewrite.get("x-one"), Some(&b"3"[..]));
        assert_eq!(rewrite.get("z"), None);
        assert_eq!(rewrite.count("x-new"), 1);
        assert_eq!(rewrite.get("host"), Some(&b"a"[..]));
    });
    assert_eq!(out, "Host: a\r\nx-one: 3\r\nx-new: 5\r\n");
    let lines = head.split_once("\r\n").unwrap().1.strip_suffix("\r\n");
    assert_eq!(rewritten(head, |_| {}), lines.unwrap());
    let without = |name: &'static str| rewritten(head, |rewrite| rewrite.remove(name));
    assert!(without("host").starts_with("X-One:  1 \r\n") && without("host").ends_with("Z: z\r\n"));
    assert!(without("z").starts_with("Host: a\r\n") && without("z").ends_with(": y\r\n"));
    assert!(without("keep-alive").contains("x-ONE: 2\r\nConnection: keep-alive\r\n"));
}

#[test]
fn only_neat_answers_are_copied_line_by_line() {
    let neat = |head: &str| {
        let seen = response::look(head.as_bytes(), false, &mut Vec::new());
        seen.unwrap().unwrap().neat_until.is_some()
    };
    assert!(neat("HTTP/1.1 200 OK\r\nA: b\r\nContent-Length:0\r\n\r\n"));
    assert!(!neat(
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n"
    ));
    assert!(!neat("HTTP/1.1 200 OK\r\nA: b\nContent-Length: 0\r\n\r\n"));
    assert!(!neat(
        "HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n"
    ));
    assert!(!neat("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: b\n\r\n"));
}

#[test]
fn what_connection_names_goes_but_not_the_framing() {
    let answer = b"HTTP/1.1 200 OK\r\nConnection: X-Inner, content-length\r\nX-Inner: 1\r\n\
                   Content-Length: 2\r\nX-Folded: a\r\n b\r\n\r\n";
    let mut fields = Vec::new();
    response::look(answer, false, &mut fields).unwrap().unwrap();
    let headers = Headers {
        bytes: answer,
        fields: &fields,
        neat_until: None,
    };
    let mut added = Added::default();
    let mut rewrite = Rewrite::new(headers, &mut added);
    rewrite.remove_hop_by_hop();
    let mut out = Vec::new();
    rewrite.render(&mut out);
    let out = String::from_utf8(out).unwrap();
    assert_eq!(out, "Content-Length: 2\r\nX-Folded: a   b\r\n");
}

#[test]
fn spans_tell_where_they_are() {
    let whole = b"hello world";
    let span = Span::of(whole, &whole[6..]);
    assert_eq!(
        (span.start(), span.end(), span.text(whole)),
        (6, 11, "world")
    );
    assert_eq!(span.bytes(b"short"), b"");
}
