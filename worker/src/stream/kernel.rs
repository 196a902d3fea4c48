//! Between two sockets: small pieces are copied, streams are moved by the kernel from socket to
//! socket through a pipe, without ever coming here (splice(2)). A connection that is silent holds
//! neither buffer nor pipe.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::copy::until_over;
use super::{Linger, Meter};
use crate::context::Spliced;

/// What is copied at once. A read that fills it shows a stream, which is worth a pipe.
const PIECE: usize = 16 << 10;
/// What a pipe may hold; the system grants less to who has many of them.
const PIPE: usize = 256 << 10;
/// What is moved at once.
const MOVE: usize = 1 << 20;
/// After so long without a byte a stream gives its pipe back.
const REST: Duration = Duration::from_secs(1);

/// Carries both ways, as [`super::splice`] does.
pub async fn splice_sockets(
    client: TcpStream,
    upstream: TcpStream,
    meter: &Arc<Meter>,
    linger: Linger,
    closed: &CancellationToken,
) -> Spliced {
    let up = one_way(&client, &upstream, &meter.sent);
    let down = async {
        one_way(&upstream, &client, &meter.received).await?;
        meter.app_done.notify_one();
        io::Result::Ok(())
    };
    let both = async { tokio::try_join!(up, down) };
    until_over(both, meter, linger, closed).await
}

/// What became of a read.
enum Got {
    /// So many bytes, passed on.
    Piece(usize),
    /// Nothing at the moment.
    Nothing,
    /// The end.
    End,
}

/// Carries one way until its end, which it passes on.
async fn one_way(from: &TcpStream, to: &TcpStream, count: &AtomicU64) -> io::Result<()> {
    loop {
        from.readable().await?;
        let ended = match copy_piece(from, to, count).await? {
            Got::Piece(PIECE) => move_stream(from, to, count).await?,
            Got::Piece(_) | Got::Nothing => false,
            Got::End => true,
        };
        if ended {
            // An end that is gone already misses nothing.
            let _ = SockRef::from(to).shutdown(Shutdown::Write);
            return Ok(());
        }
    }
}

/// Copies what is there, up to a piece.
async fn copy_piece(from: &TcpStream, to: &TcpStream, count: &AtomicU64) -> io::Result<Got> {
    let mut piece = Vec::with_capacity(PIECE);
    let read = match from.try_read_buf(&mut piece) {
        Ok(0) => return Ok(Got::End),
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Got::Nothing),
        Err(error) => return Err(error),
    };
    count.fetch_add(read as u64, Ordering::Relaxed);
    let mut left = &piece[..];
    while !left.is_empty() {
        match to.try_write(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => left = left.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(Got::Piece(read))
}

/// Moves a stream until it pauses or ends; true if it has ended.
async fn move_stream(from: &TcpStream, to: &TcpStream, count: &AtomicU64) -> io::Result<bool> {
    let Ok(pipe) = Pipe::new() else {
        // No descriptors left: it is copied.
        return Ok(false);
    };
    loop {
        let moved = from.try_io(Interest::READABLE, || pipe.fill(from));
        match moved {
            Ok(0) => return Ok(true),
            Ok(moved) => {
                count.fetch_add(moved as u64, Ordering::Relaxed);
                pipe.drain(to, moved).await?;
            }
            // The pipe is empty: it is the socket that has nothing.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match tokio::time::timeout(REST, from.readable()).await {
                    Ok(ready) => ready?,
                    Err(_) => return Ok(false),
                }
            }
            Err(error) => return Err(error),
        }
        // Two fast ends must not keep the others waiting.
        tokio::task::coop::consume_budget().await;
    }
}

/// A pipe between two sockets; empty whenever nothing is being moved.
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A small one works, too.
        let _ = fcntl_setpipe_size(&into, PIPE);
        Ok(Self { out, into })
    }

    fn fill(&self, from: &TcpStream) -> io::Result<usize> {
        Ok(splice(from, None, &self.into, None, MOVE, flags())?)
    }

    async fn drain(&self, to: &TcpStream, mut held: usize) -> io::Result<()> {
        while held > 0 {
            let moved = to.try_io(Interest::WRITABLE, || {
                Ok(splice(&self.out, None, to, None, held, flags())?)
            });
            match moved {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(moved) => held -= moved,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::SpliceEnd;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const LINGER: Linger = Linger(Duration::from_secs(60));

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (one, two) = tokio::join!(TcpStream::connect(address), listener.accept());
        (one.unwrap(), two.unwrap().0)
    }

    /// Bytes that differ wherever a piece might be lost or swapped.
    fn pattern(length: usize) -> Vec<u8> {
        (0..length)
            .map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8)
            .collect()
    }

    #[tokio::test]
    async fn streams_pass_whole_both_ways_and_either_end_may_go_on_alone() {
        let (mut client, client_end) = pair().await;
        let (mut app, app_end) = pair().await;
        let meter = Arc::new(Meter::default());
        let closed = CancellationToken::new();
        let (question, answer) = (pattern(3 << 20), pattern(5 << 20));
        let ends = async {
            let asking = async {
                client.write_all(b"hello").await.unwrap();
                client.write_all(&question).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let (read, ()) = tokio::join!(app.read_to_end(&mut got), asking);
            read.unwrap();
            assert!(got == [&b"hello"[..], &question].concat(), "the question");
            let mut got = Vec::new();
            let answering = async {
                app.write_all(&answer).await.unwrap();
                app.shutdown().await.unwrap();
            };
            let (read, ()) = tokio::join!(client.read_to_end(&mut got), answering);
            read.unwrap();
            assert!(got == answer, "the answer");
        };
        let carried = splice_sockets(client_end, app_end, &meter, LINGER, &closed);
        let (spliced, ()) = tokio::join!(carried, ends);
        assert_eq!(spliced.end, SpliceEnd::Finished);
        assert_eq!(spliced.sent, (3 << 20) + 5);
        assert_eq!(spliced.received, 5 << 20);
    }

    #[tokio::test]
    async fn an_end_that_does_not_read_holds_up_the_other_and_no_more_than_that() {
        let (mut client, client_end) = pair().await;
        let (app, app_end) = pair().await;
        let meter = Arc::new(Meter::default());
        let closed = CancellationToken::new();
        let all = pattern(64 << 20);
        let ends = async {
            let mut sent = 0;
            // Until all buffers on the way are full.
            while let Ok(Ok(more)) =
                tokio::time::timeout(Duration::from_millis(300), client.write(&all[sent..])).await
            {
                sent += more;
            }
            assert!(sent < all.len(), "all of it was taken");
            drop(app);
            sent
        };
        let carried = splice_sockets(client_end, app_end, &meter, LINGER, &closed);
        let (spliced, sent) = tokio::join!(carried, ends);
        assert_eq!(spliced.end, SpliceEnd::Broken);
        assert!(spliced.sent <= sent as u64);
    }

    #[tokio::test]
    async fn a_closed_circuit_ends_it() {
        let (_client, client_end) = pair().await;
        let (_app, app_end) = pair().await;
        let closed = CancellationToken::new();
        closed.cancel();
        let meter = Arc::default();
        let spliced = splice_sockets(client_end, app_end, &meter, LINGER, &closed).await;
        assert_eq!(spliced.end, SpliceEnd::CircuitClosed);
    }
}
