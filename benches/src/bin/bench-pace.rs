//! A load at a fixed rate, for `scripts/bench`: requests leave by the clock whether or not earlier
//! ones have been answered, and each latency counts from the moment its request was due, so that a
//! proxy that stalls is not spared the requests it held up.
//!
//! ```text
//! bench-pace ADDRESS:PORT PATH --connections N --rate N --seconds N [--header 'NAME: VALUE']...
//! ```
//!
//! Connections are kept. One thread each: the system's timers are finer than a runtime's.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Longest answer head read.
const LONGEST_HEAD: usize = 16 * 1_024;
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);

struct Plan {
    target: SocketAddr,
    request: Vec<u8>,
    connections: u32,
    rate: u32,
    length: Duration,
}

/// What one connection has come to.
#[derive(Default)]
struct Tally {
    latencies: Vec<Duration>,
    errors: usize,
}

fn main() -> Result<(), String> {
    let plan = Plan::read(std::env::args().skip(1))?;
    let begin = Instant::now() + Duration::from_millis(50);
    let threads: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..plan.connections)
            .map(|number| {
                let plan = &plan;
                scope.spawn(move || run(plan, number, begin))
            })
            .collect();
        running.into_iter().map(|one| one.join()).collect()
    });
    let mut all = Tally::default();
    for tally in threads {
        let tally = tally.map_err(|_| "a connection's thread panicked")?;
        all.latencies.extend(tally.latencies);
        all.errors += tally.errors;
    }
    let seconds = begin.elapsed().as_secs_f64();
    all.latencies.sort_unstable();
    let at = |part: f64| {
        let index = (all.latencies.len() as f64 * part) as usize;
        let last = all.latencies.len().saturating_sub(1);
        let latency = all.latencies.get(index.min(last)).copied();
        latency.unwrap_or_default().as_secs_f64() * 1e3
    };
    let (requests, errors) = (all.latencies.len(), all.errors);
    let report = format!(
        r#"{{"requests": {requests}, "seconds": {seconds}, "p50": {}, "p99": {}, "errors": {errors}}}"#,
        at(0.5),
        at(0.99),
    );
    writeln!(io::stdout(), "REPORT {report}").map_err(|error| error.to_string())
}

impl Plan {
    fn read(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let target = given.next().unwrap_or_default();
        let target = target
            .parse()
            .map_err(|_| format!("{target:?}: write the target as 127.0.0.1:8080"))?;
        let path = given.next().ok_or("the path is missing")?;
        let mut head = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\n");
        let (mut connections, mut rate, mut seconds) = (64, 10_000, 5);
        while let Some(option) = given.next() {
            let value = given
                .next()
                .ok_or_else(|| format!("{option} needs a value"))?;
            let number = || {
                let parsed = value.parse().ok().filter(|number| *number > 0);
                parsed.ok_or_else(|| format!("{option} {value}: a number above 0"))
            };
            match option.as_str() {
                "--connections" => connections = number()?,
                "--rate" => rate = number()?,
                "--seconds" => seconds = number()?,
                "--header" => head.push_str(&format!("{value}\r\n")),
                _ => return Err(format!("there is no option {option}")),
            }
        }
        head.push_str("\r\n");
        Ok(Self {
            target,
            request: head.into_bytes(),
            connections,
            rate,
            length: Duration::from_secs(seconds.into()),
        })
    }

    /// When the connection's next request is due, after the beginning.
    fn due(&self, number: u32, turn: u32) -> Duration {
        let place = u64::from(turn) * u64::from(self.connections) + u64::from(number);
        Duration::from_secs_f64(place as f64 / f64::from(self.rate))
    }
}

fn run(plan: &Plan, number: u32, begin: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut stream = None;
    let mut buffer = vec![0; 64 * 1_024];
    for turn in 0.. {
        let due = plan.due(number, turn);
        if due >= plan.length {
            break;
        }
        let due = begin + due;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let answered = match &mut stream {
            Some(stream) => ask(stream, &plan.request, &mut buffer),
            none => connect(plan.target)
                .and_then(|fresh| ask(none.insert(fresh), &plan.request, &mut buffer)),
        };
        match answered {
            Ok(()) => tally.latencies.push(due.elapsed()),
            Err(_) => {
                tally.errors += 1;
                stream = None;
            }
        }
    }
    tally
}

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends the request and reads its answer to the end, which `Content-Length` tells.
fn ask(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> io::Result<()> {
    stream.write_all(request)?;
    let mut filled = 0;
    let end = loop {
        if filled >= LONGEST_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        filled += more(stream, &mut buffer[filled..])?;
        let ended = buffer[..filled].windows(4).position(|at| at == b"\r\n\r\n");
        if let Some(end) = ended {
            break end + 4;
        }
    };
    let head = &buffer[..end];
    if !head.starts_with(b"HTTP/1.1 200 ") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut left = length(head)?.saturating_sub(filled - end);
    while left > 0 {
        left = left.saturating_sub(more(stream, buffer)?);
    }
    Ok(())
}

fn more(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

fn length(head: &[u8]) -> io::Result<usize> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    line.and_then(|value| value.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
