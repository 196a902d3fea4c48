//! HTTP/1 as RFC 9110 and RFC 9112 have it, a table: what a client sends, what the app answers, and
//! what has to come of it at both ends. `requests` holds what clients may do, `answers` what apps
//! do and should not. What clients must not do is in [`crate::malformed`].

mod answers;
mod requests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::eventually::eventually;

/// Longest until a connection is answered and ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an app answers that a case says nothing about.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Ends the connection after whatever came before, and shows that it was in step.
const LAST: &str = "GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where the rule stands, and what it is.
    pub name: &'static str,
    /// What the client sends.
    pub request: Vec<u8>,
    /// It comes byte by byte.
    pub trickles: bool,
    /// What the app answers to the first request; `OK` to all others.
    pub answer: Vec<u8>,
    /// The app closes after that.
    pub closes: bool,
    /// Statuses of the answers in order, each a choice separated by `|`; those in brackets may
    /// be missing.
    pub statuses: &'static str,
    /// The first proper answer's body; `None` if the connection has to end before its end.
    pub body: Option<&'static str>,
    /// Texts of which each must reach the app, letters' case apart.
    pub app: &'static [&'static str],
    /// Texts that must reach neither end.
    pub nowhere: &'static [&'static str],
}

impl Case {
    fn new(name: &'static str, request: impl Into<Vec<u8>>) -> Self {
        Self {
            name,
            request: request.into(),
            trickles: false,
            answer: OK.to_vec(),
            closes: false,
            statuses: "200",
            body: Some("ok"),
            app: &[],
            nowhere: &[],
        }
    }

    fn trickling(mut self) -> Self {
        self.trickles = true;
        self
    }

    fn answered(mut self, answer: impl Into<Vec<u8>>) -> Self {
        self.answer = answer.into();
        self
    }

    /// The app ends its connection after its answer.
    fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    fn gives(mut self, statuses: &'static str, body: &'static str) -> Self {
        self.statuses = statuses;
        self.body = Some(body);
        self
    }

    /// The client must see that the answer is not whole.
    fn cut(mut self) -> Self {
        self.body = None;
        self
    }

    fn app_gets(mut self, texts: &'static [&'static str]) -> Self {
        self.app = texts;
        self
    }

    fn nobody_gets(mut self, texts: &'static [&'static str]) -> Self {
        self.nowhere = texts;
        self
    }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [requests::cases(), answers::cases()].concat()
}

/// An app that answers as a case says, and keeps what it got.
#[derive(Debug)]
pub struct ScriptedApp {
    /// Where it listens.
    pub address: SocketAddr,
    book: Arc<Mutex<Book>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Book {
    answer: Vec<u8>,
    closes: bool,
    given: bool,
    seen: Vec<u8>,
}

impl ScriptedApp {
    /// Starts one on a free loopback port.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let book: Arc<Mutex<Book>> = Arc::default();
        let kept = Arc::clone(&book);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&kept)));
            }
        });
        Ok(Self {
            address,
            book,
            task,
        })
    }

    fn plays(&self, case: &Case) {
        *self.book.lock().unwrap_or_else(PoisonError::into_inner) = Book {
            answer: case.answer.clone(),
            closes: case.closes,
            ..Book::default()
        };
    }

    fn seen(&self) -> String {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&book.seen).to_ascii_lowercase()
    }
}

impl Drop for ScriptedApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Every head is answered as soon as it is whole.
async fn serve(mut stream: TcpStream, book: Arc<Mutex<Book>>) {
    let mut tail = Vec::new();
    let mut buffer = vec![0; 16 * 1_024];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        tail.extend_from_slice(&buffer[..count]);
        let mut answers = Vec::new();
        let mut last = false;
        {
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            book.seen.extend_from_slice(&buffer[..count]);
            while let Some(end) = tail.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = tail.drain(..end + 4).collect();
                if !head.windows(6).any(|word| word == b"HTTP/1") {
                    continue;
                }
                if book.given {
                    answers.extend_from_slice(OK);
                } else {
                    book.given = true;
                    last = book.closes;
                    answers.extend_from_slice(&book.answer);
                }
            }
        }
        if stream.write_all(&answers).await.is_err() || last {
            return;
        }
    }
}

/// An answer as the client got it.
#[derive(Debug)]
struct Answer {
    status: String,
    body: Vec<u8>,
    whole: bool,
}

/// Plays a case at a frontend whose app is `app`, and says what is wrong with what came of it.
///
/// # Errors
/// What is wrong.
pub async fn hold(case: &Case, address: SocketAddr, app: &ScriptedApp) -> Result<()> {
    app.plays(case);
    let mut client = TcpStream::connect(address).await?;
    client.set_nodelay(true)?;
    let mut bytes = Vec::new();
    let exchange = async {
        let pieces = case
            .request
            .chunks(if case.trickles { 1 } else { usize::MAX });
        for piece in pieces {
            // Whoever has answered may end the connection before it has heard everything.
            if client.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // A connection that is broken off is at an end, too.
        let _ = client.read_to_end(&mut bytes).await;
        std::io::Result::Ok(())
    };
    let over = tokio::time::timeout(PATIENCE, exchange).await;
    let told = String::from_utf8_lossy(&bytes).into_owned();
    over.with_context(|| format!("the connection stays open after {told:?}"))??;
    let to_head = case.request.starts_with(b"HEAD");
    let answers = parse(&bytes, to_head).with_context(|| format!("{told:?}"))?;
    check_statuses(case.statuses, &answers).with_context(|| format!("{told:?}"))?;
    let proper = answers.iter().find(|one| !one.status.starts_with('1'));
    match (proper, case.body) {
        (Some(answer), Some(body)) if answer.status.starts_with(['2', '3']) => {
            ensure!(answer.whole, "the answer is cut: {told:?}");
            let got = String::from_utf8_lossy(&answer.body);
            ensure!(got == body, "a body of {got:?}");
        }
        (Some(answer), None) => {
            ensure!(
                answer.status == "502" || !answer.whole,
                "taken for whole: {told:?}"
            );
        }
        _ => {}
    }
    for text in case.app {
        let text = text.to_ascii_lowercase();
        // An app that has answered already may be told the rest a moment later.
        let what = format!("the app gets {text:?}");
        eventually(&what, Duration::from_secs(2), async || {
            let seen = app.seen();
            ensure!(seen.contains(&text), "it got {seen:?}");
            Ok(())
        })
        .await?;
    }
    let seen = app.seen();
    let told = told.to_ascii_lowercase();
    for text in case.nowhere {
        let text = text.to_ascii_lowercase();
        ensure!(!seen.contains(&text), "the app got {text:?}: {seen:?}");
        ensure!(!told.contains(&text), "the client got {text:?}: {told:?}");
    }
    Ok(())
}

fn check_statuses(expected: &str, answers: &[Answer]) -> Result<()> {
    let mut answers = answers.iter().peekable();
    for choice in expected.split_ascii_whitespace() {
        let optional = choice.starts_with('[');
        let choice = choice.trim_matches(['[', ']']);
        let fits = |answer: &&Answer| choice.split('|').any(|one| one == answer.status);
        if answers.next_if(fits).is_none() {
            let next = answers.peek().map(|answer| &answer.status);
            ensure!(optional, "{next:?} instead of {choice}");
        }
    }
    let more = answers.next().map(|answer| &answer.status);
    ensure!(more.is_none(), "{more:?} as well");
    Ok(())
}

/// Reads answers strictly, as a client does that wants to be in step.
fn parse(mut bytes: &[u8], mut to_head: bool) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.context("an answer without an end of its head")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let status = status.strip_prefix("HTTP/1.1 ").context("no status line")?;
        let status = status.get(..3).context("no status")?.to_owned();
        let (mut length, mut chunked) = (None, false);
        for line in lines {
            let (name, value) = line.split_once(':').context("not a header")?;
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = Some(value.trim().parse::<usize>()?),
                "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
                _ => {}
            }
        }
        ensure!(!(chunked && length.is_some()), "two framings");
        let mut answer = Answer {
            whole: true,
            body: Vec::new(),
            status,
        };
        let interim = answer.status.starts_with('1');
        if interim || to_head || matches!(answer.status.as_str(), "204" | "304") {
            to_head = to_head && interim;
        } else if chunked {
            let (body, rest, whole) = unchunk(bytes)?;
            (answer.body, answer.whole, bytes) = (body, whole, rest);
        } else {
            let here = bytes.len().min(length.unwrap_or(bytes.len()));
            answer.whole = length.is_none_or(|length| length == here);
            answer.body = bytes[..here].to_vec();
            bytes = &bytes[here..];
        }
        answers.push(answer);
    }
    Ok(answers)
}

fn unchunk(mut bytes: &[u8]) -> Result<(Vec<u8>, &[u8], bool)> {
    let mut body = Vec::new();
    loop {
        let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
            return Ok((body, &[], false));
        };
        let size = std::str::from_utf8(&bytes[..end])?;
        let size = size.split(';').next().unwrap_or_default();
        let Ok(size) = usize::from_str_radix(size, 16) else {
            bail!("a chunk of {size:?} bytes");
        };
        bytes = &bytes[end + 2..];
        if size == 0 {
            // Trailers end with an empty line.
            let end = if bytes.starts_with(b"\r\n") {
                Some(2)
            } else {
                let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
                end.map(|end| end + 4)
            };
            return Ok(match end {
                Some(end) => (body, &bytes[end..], true),
                None => (body, &[], false),
            });
        }
        if bytes.len() < size + 2 {
            body.extend_from_slice(bytes);
            return Ok((body, &[], false));
        }
        body.extend_from_slice(&bytes[..size]);
        ensure!(&bytes[size..size + 2] == b"\r\n", "no end of a chunk");
        bytes = &bytes[size + 2..];
    }
}
