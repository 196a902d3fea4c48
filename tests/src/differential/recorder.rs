//! The app: answers by a script and records what it got.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::account::{Message, Parsed, parse};
use super::script::Script;

/// What is played and what was got.
#[derive(Debug, Default)]
struct Tape {
    script: Option<Script>,
    requests: Vec<Message>,
}

/// An app that records.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) address: SocketAddr,
    tape: Arc<Mutex<Tape>>,
}

impl Recorder {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let tape = Arc::<Mutex<Tape>>::default();
        let shared = Arc::clone(&tape);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Ok(Self { address, tape })
    }

    pub(super) fn play(&self, script: &Script) {
        let mut tape = lock(&self.tape);
        tape.script = Some(script.clone());
        tape.requests.clear();
    }

    pub(super) fn take(&self) -> Vec<Message> {
        std::mem::take(&mut lock(&self.tape).requests)
    }
}

async fn serve(mut stream: TcpStream, tape: Arc<Mutex<Tape>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    loop {
        let (request, length) = loop {
            match parse(&bytes, false) {
                Parsed::Whole(request, length) => break (request, length),
                Parsed::Part(_) => {}
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                if !bytes.is_empty() {
                    let part = Message::broken(&bytes);
                    lock(&tape).requests.push(part);
                }
                return Ok(());
            }
        };
        bytes.drain(..length);
        let to_head = request.first_line.starts_with("HEAD ");
        let script = {
            let mut tape = lock(&tape);
            tape.requests.push(request);
            tape.script.clone()
        };
        let Some(script) = script else { return Ok(()) };
        let mut answer = &script.answer[..];
        let mut cut = script.cut;
        if to_head {
            answer = heads(answer);
            cut = cut.min(answer.len());
        }
        stream.write_all(&answer[..cut]).await?;
        tokio::task::yield_now().await;
        stream.write_all(&answer[cut..]).await?;
        if script.closes || answer.windows(17).any(|part| part == b"Connection: close") {
            return stream.shutdown().await;
        }
    }
}

/// An answer without its body.
fn heads(answer: &[u8]) -> &[u8] {
    let mut ends = (0..answer.len()).filter(|at| answer[..*at].ends_with(b"\r\n\r\n"));
    let first = ends.next().unwrap_or(answer.len());
    let interim = answer.starts_with(b"HTTP/1.1 1");
    let end = if interim { ends.next() } else { Some(first) };
    &answer[..end.unwrap_or(answer.len())]
}

fn lock(tape: &Mutex<Tape>) -> MutexGuard<'_, Tape> {
    tape.lock().unwrap_or_else(PoisonError::into_inner)
}
