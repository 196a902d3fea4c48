//! What clients send: requests put together from parts that matter, then damaged, then cut.

use super::script::Script;
use super::{Case, Dice};

const METHODS: &[&str] = &[
    "GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "TRACE",
    "PURGE",
];
const TARGETS: &[&str] = &[
    "/",
    "/a/b?c=d",
    "/%41%zz",
    "/a//b/../c",
    "*",
    "http://a.example/x",
    "/a b",
    "/a#b",
    "//x/y",
    "/\"<>",
    "?",
    "/a?b?c",
];
const HEADERS: &[&str] = &[
    "Accept: text/html",
    "X-A: b",
    "x-a:  c ",
    "X-Empty:",
    "Cookie: a=b; c=d",
    "Cookie: e=f",
    "X-Forwarded-For: 1.2.3.4",
    "X-Forwarded-Host: evil",
    "Forwarded: for=1.2.3.4",
    "X-Real-Ip: 1.1.1.1",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "Proxy-Authorization: Basic eDp5",
    "Trailer: X-Sum",
    "Origin: http://o.example",
    "Access-Control-Request-Method: PUT",
    "Authorization: Bearer x",
    "User-Agent: fuzz/1",
    "X-Latin: \u{e9}",
];
const ODD: &[&str] = &[
    "TE: trailers",
    "Expect: 100-continue",
    "Connection: X-A",
    "Connection: close, x-a",
    "Connection: keep-alive",
    "Connection: Close",
    "Host: b.example",
    "Host: u@a",
    "X Y: z",
    "X-Y : z",
    " folded: x",
    "No-Colon",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding : chunked",
    "Content-Length: 3",
    "Content-Length: +3",
    "Content-Length: 3, 3",
    "Content-Length: 1\r\nContent-Length: 1",
    "Content-Length: 0",
    "X-Nul: a\0b",
    "X-Cr: a\rb",
];
const DAMAGE: &[u8] = b"\r\n\0 :\t;,/\"x0\x7f\xff";

/// A case as these dice fall.
pub(super) fn case(dice: &mut Dice) -> Case {
    let count = if dice.once_in(4) {
        1 + dice.below(4)
    } else {
        1
    };
    let mut bytes = Vec::new();
    let mut complete = true;
    for number in 0..count {
        let last = number + 1 == count;
        complete &= request(dice, (number > 0 || !last, last), &mut bytes);
    }
    if dice.once_in(4) {
        complete = false;
        damage(dice, &mut bytes);
    }
    if dice.once_in(12) {
        complete = false;
        bytes.truncate(dice.below(bytes.len()));
    }
    Case {
        complete,
        several: bytes.windows(5).filter(|five| five == b"HTTP/").count() > 1 || count > 1,
        pieces: cut(dice, &bytes),
        script: Script::of(dice),
    }
}

/// Writes one of `several` requests; true if nothing is odd about it and it asks to close if it is
/// the `last`.
fn request(dice: &mut Dice, (several, last): (bool, bool), out: &mut Vec<u8>) -> bool {
    let odd = dice.once_in(3);
    let method = if odd {
        *dice.one(METHODS)
    } else {
        *dice.one(&METHODS[..9])
    };
    // Answers to several requests are told apart by their framing, which those to HEAD have not.
    let method = if several && method == "HEAD" {
        "GET"
    } else {
        method
    };
    let target = if odd {
        *dice.one(TARGETS)
    } else {
        *dice.one(&TARGETS[..2])
    };
    let version = if dice.once_in(20) {
        "HTTP/1.0"
    } else {
        "HTTP/1.1"
    };
    let mut lines = vec![format!("{method} {target} {version}")];
    if !dice.once_in(20) {
        lines.push("Host: a.example:81".into());
    }
    lines.push("X-Backend-Request-ID: fuzz".into());
    for _ in 0..dice.below(5) {
        lines.push((*dice.one(HEADERS)).into());
    }
    if odd {
        lines.push((*dice.one(ODD)).into());
    }
    let closes = !last || !dice.once_in(10);
    if last && closes {
        lines.push("Connection: close".into());
    }
    let body = body(dice, &mut lines);
    let end = if dice.once_in(40) { "\n" } else { "\r\n" };
    out.extend_from_slice(lines.join(end).as_bytes());
    out.extend_from_slice(end.as_bytes());
    out.extend_from_slice(end.as_bytes());
    out.extend_from_slice(&body);
    !odd && closes
}

fn body(dice: &mut Dice, lines: &mut Vec<String>) -> Vec<u8> {
    let length = *dice.one(&[0, 1, 5, 100, 3_000, 40_000]);
    let body: Vec<u8> = (0..length).map(|index| b'a' + (index % 26) as u8).collect();
    match dice.below(6) {
        0 => {
            lines.push(format!("Content-Length: {length}"));
            body
        }
        1 => {
            lines.push("Transfer-Encoding: chunked".into());
            let mut out = Vec::new();
            for piece in body.chunks(1 + dice.below(4_000)) {
                out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n\r\n");
            out
        }
        _ => Vec::new(),
    }
}

fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(2) {
        if bytes.is_empty() {
            return;
        }
        // Heads are more interesting than bodies.
        let at = dice.below(bytes.len().min(300));
        match dice.below(3) {
            0 => bytes[at] = *dice.one(DAMAGE),
            1 => bytes.insert(at, *dice.one(DAMAGE)),
            _ => drop(bytes.remove(at)),
        }
    }
}

fn cut(dice: &mut Dice, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for _ in 0..dice.below(4) {
        let (piece, left) = rest.split_at(dice.below(rest.len() + 1));
        pieces.push(piece.to_vec());
        rest = left;
    }
    pieces.push(rest.to_vec());
    pieces.retain(|piece| !piece.is_empty());
    pieces
}
