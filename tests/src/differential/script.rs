//! What the app answers.

use super::Dice;

const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-B: c\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
    "HTTP/1.1 404 Nothing Here\r\nContent-Length: 2\r\nConnection: keep-alive, X-In\r\nX-In: 1\r\nKeep-Alive: x\r\n\r\nno",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: http://o\r\nAccess-Control-Allow-Headers: x\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 302 Found\r\nLocation: /x\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
];
/// After which the app closes.
const LAST_ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\n\r\nuntil the end",
    "HTTP/1.0 200 OK\r\nServer: old\r\n\r\nuntil the end",
    "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    "HTTP/1.1 200 OK\r\nContent-Le",
    "garbage\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
    "",
];

/// One answer to every request of a case.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) answer: Vec<u8>,
    /// The app closes after it.
    pub(super) closes: bool,
    /// Cut here into two writes.
    pub(super) cut: usize,
}

impl Script {
    pub(super) fn of(dice: &mut Dice) -> Self {
        let closes = dice.once_in(6);
        let mut answer = if closes {
            dice.one(LAST_ANSWERS).as_bytes().to_vec()
        } else {
            dice.one(ANSWERS).as_bytes().to_vec()
        };
        if !closes && dice.once_in(10) {
            let length = *dice.one(&[4_000, 20_000, 200_000]);
            answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
            answer.resize(answer.len() + length, b'z');
        }
        Self {
            cut: dice.below(answer.len() + 1),
            answer,
            closes,
        }
    }

    /// The app breaks off before its answer is whole, so that a request may have come twice.
    pub(super) fn breaks(&self) -> bool {
        self.closes
    }
}
