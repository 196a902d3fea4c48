//! One line for every request, written by a thread of its own.
//!
//! A line through the general logger costs a formatted record and a system call on the thread
//! that carries traffic; here a request appends to a buffer, and the writer empties it in large
//! pieces. When the reader of our output stalls, lines are dropped and counted rather than
//! traffic held up.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use patchbay_common::cli::LogFormat;

/// Most bytes that wait to be written.
const MAX_WAITING: usize = 8 << 20;
/// Bytes that wake the writer before its time.
const WAKE_AT: usize = 512 << 10;
/// Longest time a line waits.
const PERIOD: Duration = Duration::from_millis(100);

/// What a line says. Absent fields are left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line<'a> {
    /// `http`, `websocket` or `tcp`.
    pub kind: &'a str,
    /// The request's or connection's id.
    pub request_id: &'a str,
    /// Id of the request that opened the circuit.
    pub origin_request_id: Option<&'a str>,
    /// The trace the request belongs to.
    pub traceparent: Option<&'a str>,
    /// Address of the client.
    pub client: Option<SocketAddr>,
    /// HTTP method.
    pub method: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// The circuit.
    pub circuit: Option<&'a str>,
    /// Its app.
    pub app: Option<&'a str>,
    /// By what right the request was carried.
    pub credential: Option<&'a str>,
    /// Name of the permit or token, by which it can be revoked.
    pub grant: Option<&'a str>,
    /// Where it was sent.
    pub route: Option<&'a str>,
    /// The gateway's route.
    pub gateway_route: Option<&'a str>,
    /// The gateway's service.
    pub service: Option<&'a str>,
    /// Who asked, as the gateway found out.
    pub subject: Option<&'a str>,
    /// HTTP status; 0 if none was sent, 499 if the client went away first.
    pub status: u16,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// The whole time.
    pub duration: Duration,
    /// Time to the answer's head.
    pub first_byte: Option<Duration>,
    /// The status the gateway's instance answered, and how long it took to.
    pub upstream: Option<(u16, Duration)>,
    /// Whether its connection was `new` or `reused`.
    pub connection: Option<&'a str>,
    /// Upstreams tried before.
    pub retries: usize,
    /// It took longer than the operator likes.
    pub slow: bool,
    /// How a spliced connection ended.
    pub end: Option<&'a str>,
    /// Why the request was not carried, or not to its end.
    pub error: Option<&'a str>,
}

/// The log.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    format: LogFormat,
    writer: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    clock: Clock,
    closing: bool,
}

/// The time of day as lines show it; all but its milliseconds is kept for a second.
#[derive(Debug, Default)]
struct Clock {
    second: i64,
    text: String,
}

impl Clock {
    /// `2026-08-23T01:02:03` and the milliseconds.
    fn read(&mut self) -> (&str, u32) {
        let now = Utc::now();
        if now.timestamp() != self.second || self.text.is_empty() {
            self.second = now.timestamp();
            self.text = now.format("%Y-%m-%dT%H:%M:%S").to_string();
        }
        (&self.text, now.timestamp_subsec_millis())
    }
}

impl AccessLog {
    /// A log that writes to standard output, or drops every line if it is not enabled.
    ///
    /// # Errors
    /// If the writer's thread cannot be started.
    pub fn start(enabled: bool, format: LogFormat) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = if enabled {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("access-log".into());
            Some(thread.spawn(move || shared.write_until_closed())?)
        } else {
            None
        };
        Ok(Self {
            shared,
            format,
            writer,
        })
    }

    /// Whether lines are written at all.
    pub fn is_enabled(&self) -> bool {
        self.writer.is_some()
    }

    /// Appends a line.
    pub fn write(&self, line: &Line<'_>) {
        if !self.is_enabled() {
            return;
        }
        let mut guard = self.shared.lock();
        let waiting = &mut *guard;
        let before = waiting.bytes.len();
        if before > MAX_WAITING {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let out = &mut waiting.bytes;
        match self.format {
            LogFormat::Text => line.text(out, waiting.clock.read()),
            LogFormat::Json => line.json(out, waiting.clock.read()),
        }
        if before < WAKE_AT && waiting.bytes.len() >= WAKE_AT {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            log::error!("the access log's writer panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_until_closed(&self) {
        let mut batch = Vec::new();
        loop {
            let waiting = self.lock();
            let (mut waiting, _) = self
                .wake
                .wait_timeout_while(waiting, PERIOD, |w| !w.closing && w.bytes.len() < WAKE_AT)
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut batch, &mut waiting.bytes);
            let closing = waiting.closing;
            drop(waiting);
            let mut out = std::io::stdout().lock();
            // Nobody reads the log any more: there is nobody to tell either.
            let _ = out.write_all(&batch).and_then(|()| out.flush());
            drop(out);
            batch.clear();
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                log::warn!(
                    "{dropped} lines of the access log were dropped: its reader is too slow"
                );
            }
            if closing {
                return;
            }
        }
    }
}

impl Line<'_> {
    fn text(&self, out: &mut Vec<u8>, time: (&str, u32)) {
        stamp(out, time);
        put(
            out,
            &[" ACCESS ", self.kind, " request_id=", self.request_id],
        );
        self.each(|name, value| {
            put(out, &[" ", name, "="]);
            match value {
                Value::Text(text) if is_plain(text) => put(out, &[text]),
                // Writing to memory cannot fail.
                Value::Text(text) => drop(write!(out, "{text:?}")),
                value => value.bare(out),
            }
        });
        out.push(b'\n');
    }

    fn json(&self, out: &mut Vec<u8>, time: (&str, u32)) {
        put(out, &["{\"time\":\""]);
        stamp(out, time);
        put(out, &["\",\"level\":\"ACCESS\",\"kind\":\"", self.kind]);
        put(out, &["\",\"request_id\":\"", self.request_id, "\""]);
        self.each(|name, value| {
            put(out, &[",\"", name, "\":"]);
            match value {
                Value::Text(text) => drop(write!(out, "{}", serde_json::Value::from(text))),
                Value::Client(_) => {
                    out.push(b'"');
                    value.bare(out);
                    out.push(b'"');
                }
                value => value.bare(out),
            }
        });
        put(out, &["}\n"]);
    }

    /// Every field that has a value, in the order lines show them.
    fn each(&self, mut visit: impl FnMut(&'static str, Value<'_>)) {
        let texts = [
            ("origin_request_id", self.origin_request_id),
            ("traceparent", self.traceparent),
            ("method", Some(self.method).filter(|m| !m.is_empty())),
            ("path", Some(self.path).filter(|p| !p.is_empty())),
            ("circuit", self.circuit),
            ("app", self.app),
            ("gateway_route", self.gateway_route),
            ("service", self.service),
            ("subject", self.subject),
            ("auth", self.credential),
            ("grant", self.grant),
            ("route", self.route),
            ("connection", self.connection),
            ("end", self.end),
            ("error", self.error),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                visit(name, Value::Text(text));
            }
        }
        if let Some(client) = self.client {
            visit("client", Value::Client(client));
        }
        visit("status", Value::Number(self.status.into()));
        visit("bytes_in", Value::Number(self.bytes_in));
        visit("bytes_out", Value::Number(self.bytes_out));
        visit("duration_ms", Value::Millis(self.duration));
        if let Some(first_byte) = self.first_byte {
            visit("first_byte_ms", Value::Millis(first_byte));
        }
        if let Some((status, latency)) = self.upstream {
            visit("upstream_status", Value::Number(status.into()));
            visit("upstream_ms", Value::Millis(latency));
        }
        if self.slow {
            visit("slow", Value::Flag);
        }
        if self.retries > 0 {
            visit("retries", Value::Number(self.retries as u64));
        }
    }
}

/// Written by hand: a line is written for every request, and the formatter costs as much as all
/// that is formatted.
#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Number(u64),
    Client(SocketAddr),
    /// Milliseconds with three digits.
    Millis(Duration),
    /// A thing that is said only where it is so.
    Flag,
}

impl Value<'_> {
    fn bare(self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => put(out, &[text]),
            Self::Flag => put(out, &["true"]),
            Self::Number(number) => decimal(out, number, 1),
            Self::Client(SocketAddr::V4(client)) => {
                for (place, octet) in client.ip().octets().into_iter().enumerate() {
                    if place > 0 {
                        out.push(b'.');
                    }
                    decimal(out, octet.into(), 1);
                }
                out.push(b':');
                decimal(out, client.port().into(), 1);
            }
            Self::Client(client) => drop(write!(out, "{client}")),
            Self::Millis(time) => {
                decimal(
                    out,
                    time.as_secs() * 1_000 + u64::from(time.subsec_millis()),
                    1,
                );
                out.push(b'.');
                decimal(out, u64::from(time.subsec_micros()) % 1_000, 3);
            }
        }
    }
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

/// `2026-08-23T01:02:03.004Z`.
fn stamp(out: &mut Vec<u8>, (time, millis): (&str, u32)) {
    put(out, &[time, "."]);
    decimal(out, millis.into(), 3);
    out.push(b'Z');
}

/// A number, with zeros before it if it is shorter than `least` digits.
fn decimal(out: &mut Vec<u8>, mut number: u64, least: usize) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    while number > 0 {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    let start = start.min(digits.len() - least);
    out.extend_from_slice(&digits[start..]);
}

fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        Line {
            kind: "http",
            request_id: "r-1",
            client: Some("1.2.3.4:5".parse().unwrap()),
            method: "GET",
            path: "/a\nb",
            status: 200,
            duration: Duration::from_micros(1_234),
            ..Line::default()
        }
    }

    #[test]
    fn one_line_whatever_the_path() {
        let mut bytes = Vec::new();
        let at = ("2026-08-23T01:02:03", 4);
        line().text(&mut bytes, at);
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.starts_with("2026-08-23T01:02:03.004Z ACCESS http "),
            "{text}"
        );
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.contains("request_id=r-1"), "{text}");
        assert!(text.contains("path=\"/a\\nb\""), "{text}");
        assert!(text.contains("duration_ms=1.234"), "{text}");
        assert!(
            text.contains("client=1.2.3.4:5 status=200 bytes_in=0"),
            "{text}"
        );
    }

    #[test]
    fn numbers_are_written_whole() {
        for (number, least, expected) in [
            (0, 1, "0"),
            (7, 3, "007"),
            (1_234, 3, "1234"),
            (u64::MAX, 1, "18446744073709551615"),
        ] {
            let mut out = Vec::new();
            decimal(&mut out, number, least);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        let mut out = Vec::new();
        Value::Millis(Duration::from_millis(65_007)).bare(&mut out);
        out.push(b' ');
        Value::Client("[::1]:80".parse().unwrap()).bare(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "65007.000 [::1]:80");
    }

    #[test]
    fn json_parses() {
        let mut bytes = Vec::new();
        let at = Clock::default();
        line().json(&mut bytes, { at }.read());
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert!(json["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(json["path"], "/a\nb");
        assert_eq!(json["status"], 200);
        assert_eq!(json["client"], "1.2.3.4:5");
        assert_eq!(json["duration_ms"], 1.234);
    }
}
