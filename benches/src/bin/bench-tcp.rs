//! The ends of the load rig for TCP. `--listen ADDRESS` is an origin: the first byte of a connection
//! says whether it sends without end (`d`) or takes whatever comes (`u`). `--connect ADDRESS` with a
//! direction, connections and seconds is the load; it prints what passed as JSON. What arrives is
//! thrown away by the kernel, so that the ends cost less than what is measured between them.

#![expect(clippy::print_stdout, reason = "what it measured is its output")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream};

/// What is written and thrown away at once.
const PIECE: usize = 256 << 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mode, address) = (arguments.next(), arguments.next());
    let address = address.as_deref().unwrap_or_default().parse();
    let address: SocketAddr = address.map_err(io::Error::other)?;
    match mode.as_deref() {
        Some("--listen") => serve(address).await,
        Some("--connect") => {
            let direction = arguments.next().unwrap_or_default();
            let mut number = || arguments.next().and_then(|word| word.parse::<u32>().ok());
            match (direction.as_str(), number(), number()) {
                ("down" | "up", Some(connections), Some(seconds)) => {
                    load(address, direction.as_bytes()[0], connections, seconds).await
                }
                _ => Err(io::Error::other(
                    "--connect ADDRESS down|up CONNECTIONS SECONDS",
                )),
            }
        }
        _ => Err(io::Error::other("--listen or --connect")),
    }
}

async fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A proxy that cuts a connection is nothing to report.
            let _ = match stream.read_u8().await {
                Ok(b'd') => send(&mut stream).await,
                Ok(_) => take(&stream, &AtomicU64::new(0)).await,
                Err(error) => Err(error),
            };
        });
    }
}

async fn load(
    address: SocketAddr,
    direction: u8,
    connections: u32,
    seconds: u32,
) -> io::Result<()> {
    let passed = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    let begun = Instant::now();
    for _ in 0..connections {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_u8(direction).await?;
        let passed = Arc::clone(&passed);
        tasks.spawn(async move {
            if direction == b'd' {
                take(&stream, &passed).await
            } else {
                let zeros = vec![0; PIECE];
                loop {
                    stream.write_all(&zeros).await?;
                    passed.fetch_add(PIECE as u64, Ordering::Relaxed);
                }
            }
        });
    }
    let mut errors = 0;
    let over = tokio::time::sleep(Duration::from_secs(seconds.into()));
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => break,
            Some(_) = tasks.join_next() => errors += 1,
        }
    }
    println!(
        "{{\"bytes\": {}, \"seconds\": {}, \"errors\": {errors}}}",
        passed.load(Ordering::Relaxed),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn send(stream: &mut TcpStream) -> io::Result<()> {
    let zeros = vec![0; PIECE];
    loop {
        stream.write_all(&zeros).await?;
    }
}

/// Has the kernel throw away what arrives, until the end.
async fn take(stream: &TcpStream, passed: &AtomicU64) -> io::Result<()> {
    let mut unused = vec![0; PIECE];
    loop {
        stream.readable().await?;
        let taken = stream.try_io(Interest::READABLE, || {
            let (_, taken) = recv(stream.as_fd(), &mut unused[..], RecvFlags::TRUNC)?;
            Ok(taken)
        });
        match taken {
            Ok(0) => return Ok(()),
            Ok(taken) => {
                passed.fetch_add(taken as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
