//! Requests that are answered before their body has been read: whatever answers, however the body
//! is framed and whenever it comes, what is left of it must never be taken for the next request
//! (RFC 9112 §9.3; CWE-444), neither by the proxy on the client's connection nor by the app on a
//! connection the proxy keeps.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::raw::{Connection, Head};

/// A request as a body, over and over.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
/// What follows the request on its connection, in order.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
/// Longest until an answer must have come if one comes at all without the rest of the request.
const SOON: Duration = Duration::from_millis(500);

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By `Content-Length`.
    Length,
    /// In chunks, each a whole request.
    Chunked,
}

/// When a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// With the head and the next request.
    Together,
    /// After the answer, if one comes soon.
    Later,
    /// One half with the head, the other after the answer.
    Halves,
    /// Not at all: the client had asked whether it should, and took the answer for a no.
    Never,
    /// One half; then the client goes away.
    Broken,
}

/// All ways to frame and time a body.
pub fn manners() -> Vec<(Framing, Timing)> {
    let timings = [
        Timing::Together,
        Timing::Later,
        Timing::Halves,
        Timing::Never,
        Timing::Broken,
    ];
    let framings = [Framing::Length, Framing::Chunked];
    let all = framings.map(|framing| timings.map(|timing| (framing, timing)));
    all.concat()
}

/// What is asked, without its framing, and the status it is answered with.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What it is called.
    pub name: &'static str,
    /// Where it is sent.
    pub address: SocketAddr,
    /// Request line and headers.
    pub head: String,
    /// The answer's status; one of several separated by `|`.
    pub status: &'static str,
    /// Bytes of the body.
    pub bytes: usize,
}

/// Sends it and says what is wrong with what came of it. `/next` is answered once or not at all.
///
/// # Errors
/// What is wrong.
pub async fn hold(asked: &Asked, (framing, timing): (Framing, Timing)) -> Result<()> {
    let pieces = asked.bytes.div_ceil(SMUGGLED.len());
    let body = SMUGGLED.repeat(pieces);
    let mut head = asked.head.clone();
    let body = match framing {
        Framing::Length => {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
            body
        }
        Framing::Chunked => {
            head.push_str("Transfer-Encoding: chunked\r\n");
            let chunk = format!("{:x}\r\n{SMUGGLED}\r\n", SMUGGLED.len());
            format!("{}0\r\n\r\n", chunk.repeat(pieces))
        }
    };
    if timing == Timing::Never {
        head.push_str("Expect: 100-continue\r\n");
    }
    head.push_str("\r\n");
    let (one, two) = body.split_at(body.len() / 2);
    let (with_head, later) = match timing {
        Timing::Together => (format!("{head}{body}{NEXT}"), String::new()),
        Timing::Later => (head, format!("{body}{NEXT}")),
        Timing::Halves => (format!("{head}{one}"), format!("{two}{NEXT}")),
        Timing::Never => (head, NEXT.to_owned()),
        Timing::Broken => (format!("{head}{one}"), String::new()),
    };
    let mut client = Connection::open(asked.address).await?;
    client.write(&with_head).await?;
    let early = tokio::time::timeout(SOON, final_head(&mut client)).await;
    if timing == Timing::Broken {
        return Ok(());
    }
    // A connection that has been ended meanwhile shows in what is read.
    let _ = client.write(&later).await;
    let answer = match early {
        Ok(answer) => answer?,
        Err(_) => final_head(&mut client).await?,
    };
    let fits = asked.status.split('|').any(|one| one == answer.status());
    ensure!(fits, "answered by {answer:?}");
    let rest = match timing {
        // Who said that it ends the connection may wait for the other to do the same.
        Timing::Never => client.read_for(SOON).await,
        _ => client.read_to_end().await.context("after the answer")?,
    };
    let rest = String::from_utf8_lossy(&rest);
    let more = rest.matches("HTTP/1.1 ").count();
    if answer.header("connection") == Some("close") {
        ensure!(more == 0, "said close, and answered {more} more: {rest}");
    } else {
        ensure!(more <= 1, "{more} more answers: {rest}");
    }
    Ok(())
}

/// The head of the answer proper, interim ones passed over.
async fn final_head(client: &mut Connection) -> Result<Head> {
    loop {
        let head = client.read_head().await?;
        if !head.status().starts_with('1') {
            return Ok(head);
        }
    }
}

/// An app that answers as soon as it has a head, and minds framing to the byte: what it takes for
/// a request's head is kept, and whatever else comes between two requests is a failure of whoever
/// sent it.
#[derive(Debug)]
pub struct HastyApp {
    /// Where it listens.
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl HastyApp {
    /// Starts one on a free loopback port.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let book = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let book = Arc::clone(&book);
                tokio::spawn(async move {
                    // It goes on until the proxy ends the connection.
                    let _ = serve(Connection::over(stream), &book).await;
                });
            }
        });
        Ok(Self {
            address,
            heads,
            task,
        })
    }

    /// First lines of all requests since it was last asked.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for HastyApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut proxy: Connection, heads: &Mutex<Vec<String>>) -> Result<()> {
    loop {
        let head = proxy.read_head_whenever().await?;
        let kept = {
            let mut heads = heads.lock().unwrap_or_else(PoisonError::into_inner);
            heads.push(head.first_line.clone());
            !head.first_line.contains("/early-closed")
        };
        let last = if kept { "" } else { "Connection: close\r\n" };
        let status = if head.first_line.starts_with("POST") {
            "403 Forbidden"
        } else {
            "200 OK"
        };
        proxy
            .write(format!(
                "HTTP/1.1 {status}\r\nContent-Length: 2\r\n{last}\r\nno"
            ))
            .await?;
        if !kept {
            // Hears the rest out, so that its answer is not lost by a reset.
            proxy.end_our_side().await?;
            return proxy.closed().await;
        }
        read_body(&mut proxy, &head).await?;
    }
}

async fn read_body(proxy: &mut Connection, head: &Head) -> Result<()> {
    if let Some(length) = head.header("content-length") {
        proxy.read_exactly(length.parse()?).await?;
    }
    if head.header("transfer-encoding").is_some() {
        loop {
            let size = proxy.read_line().await?;
            let size = usize::from_str_radix(size.trim(), 16).context("no chunk size")?;
            proxy.read_exactly(size + 2).await?;
            if size == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}
