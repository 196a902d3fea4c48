//! The origin of the load rig: a lean HTTP/1.1 server with answers made beforehand, so that its
//! own cost stays small and the same for every proxy in front of it. `/1k`, `/10k` and `/1m` by
//! path; request bodies are not read, so only GET makes sense.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Longest request head read.
const LONGEST_HEAD: usize = 16 * 1024;

struct Answers {
    small: Vec<u8>,
    medium: Vec<u8>,
    large: Vec<u8>,
    unknown: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        Self {
            small: answer("200 OK", 1 << 10),
            medium: answer("200 OK", 10 << 10),
            large: answer("200 OK", 1 << 20),
            unknown: answer("404 Not Found", 0),
        }
    }

    fn to(&self, head: &[u8]) -> &[u8] {
        let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        match path {
            b"/1k" | b"/" => &self.small,
            b"/10k" => &self.medium,
            b"/1m" => &self.large,
            _ => &self.unknown,
        }
    }
}

fn answer(status: &str, size: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
    );
    let mut whole = head.into_bytes();
    whole.resize(whole.len() + size, b'x');
    whole
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let addresses = patchbay_benches::addresses(std::env::args().skip(1));
    let addresses = addresses.map_err(io::Error::other)?;
    let address = addresses
        .get("listen")
        .copied()
        .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9000)));
    let listener = TcpListener::bind(address).await?;
    let answers = Arc::new(Answers::new());
    loop {
        let (stream, _) = listener.accept().await?;
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            // A proxy that cuts a connection is nothing to report.
            let _ = serve(stream, &answers).await;
        });
    }
}

async fn serve(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0u8; LONGEST_HEAD];
    let mut filled = 0;
    loop {
        while let Some(end) = head_end(&buffer[..filled]) {
            stream.write_all(answers.to(&buffer[..end])).await?;
            if asks_to_close(&buffer[..end]) {
                return stream.shutdown().await;
            }
            buffer.copy_within(end..filled, 0);
            filled -= end;
        }
        if filled == buffer.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Ok(()),
            more => filled += more,
        }
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(at + 4)
}

fn asks_to_close(head: &[u8]) -> bool {
    const CLOSE: &[u8] = b"connection: close";
    head.split(|byte| *byte == b'\n').any(|line| {
        let line = line.trim_ascii_end();
        line.len() == CLOSE.len() && line.eq_ignore_ascii_case(CLOSE)
    })
}
