//! WebSocket: the upgrade is carried as a request of its own, then both connections are spliced.
//!
//! Pingora 0.9.1 forwards upgrades itself, but cuts idle ones at 60 s, loses frames of an app
//! that speaks at once, and knows no half-close (pingora-notes.md). Here the app is dialled, the
//! heads are exchanged, 101 goes to the client only after it came from the app, and from then on
//! bytes pass untouched: frames, fragments, pings, close codes and extensions are the ends'.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v1::client::HttpSession as UpstreamSession;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use super::frames::Watched;
use super::{Linger, Meter, Watch, splice};
use crate::context::{SpliceEnd, Spliced};
use crate::error::Refusal;
use crate::upstream::Fault;

/// After the app has ended its side, a client has had its close frame and has nothing to wait for
/// (RFC 6455 §7.1.1).
const LINGER: Linger = Linger(Duration::from_secs(1));

/// How long an end may take to read why the worker ends the connection.
const FAREWELL: Duration = Duration::from_millis(250);

/// What the app answered to the upgrade.
pub enum Answer {
    /// It agreed: the head to pass on, and the connection.
    Switched(Box<ResponseHeader>, Box<UpstreamSession>),
    /// It gave an ordinary answer instead.
    Ordinary(Box<ResponseHeader>, Box<UpstreamSession>),
}

/// What a failure to dial says about the upstream.
pub(super) fn fault_of(refusal: &Refusal) -> Fault {
    match refusal {
        Refusal::UpstreamConnectTimeout => Fault::ConnectTimeout,
        _ => Fault::Connect,
    }
}

/// Sends the upgrade and reads the answer's head.
///
/// # Errors
/// [`Refusal::UpstreamBroke`], [`Refusal::UpstreamTimeout`] if the answer takes longer than
/// `patience`.
pub async fn exchange(
    stream: L4Stream,
    request: RequestHeader,
    patience: Option<Duration>,
) -> Result<Answer, Refusal> {
    let Some(patience) = patience else {
        return exchange_heads(stream, request).await;
    };
    let exchanged = tokio::time::timeout(patience, exchange_heads(stream, request)).await;
    exchanged.unwrap_or(Err(Refusal::UpstreamTimeout))
}

async fn exchange_heads(stream: L4Stream, request: RequestHeader) -> Result<Answer, Refusal> {
    let mut upstream = Box::new(UpstreamSession::new(Box::new(stream)));
    upstream.read_timeout = None;
    upstream
        .write_request_header(Box::new(request))
        .await
        .map_err(|_| Refusal::UpstreamBroke)?;
    loop {
        upstream
            .read_response()
            .await
            .map_err(|_| Refusal::UpstreamBroke)?;
        let head = upstream.resp_header().ok_or(Refusal::UpstreamBroke)?;
        let head = Box::new(head.clone());
        match head.status.as_u16() {
            101 => return Ok(Answer::Switched(head, upstream)),
            // Interim answers come before the real one (RFC 9110 §15.2).
            100..=199 => {}
            _ => return Ok(Answer::Ordinary(head, upstream)),
        }
    }
}

/// Passes an ordinary answer's body on; its head has been written.
///
/// # Errors
/// If either end breaks off.
pub async fn relay_body(
    session: &mut Session,
    upstream: &mut UpstreamSession,
) -> pingora_core::Result<()> {
    while let Some(piece) = upstream.read_body_bytes().await? {
        session.write_response_body(Some(piece), false).await?;
    }
    session.write_response_body(None, true).await
}

/// After the 101 has been written downstream: takes both connections and splices them. What
/// either end had sent early, and Pingora had read with the heads, goes first. Ends that are cut off
/// hear `why`, where a frame may stand.
pub async fn carry(
    session: &mut Session,
    mut upstream: Box<UpstreamSession>,
    (meter, watch): (&Arc<Meter>, &Watch),
    closed: &CancellationToken,
    why: impl Fn() -> SpliceEnd,
) -> Spliced {
    let early_from_app = drain(upstream.read_body_bytes().now_or_never());
    let early_from_client = drain(
        session
            .downstream_session
            .read_request_body()
            .now_or_never(),
    );
    let Some(client) = take_stream(session).await else {
        return Spliced::default();
    };
    let mut client = Watched::client(client, watch.clone());
    let mut app = Watched::app(upstream.into_inner(), watch.clone());
    for (stream, early, counter) in [
        (&mut client, early_from_app, &meter.received),
        (&mut app, early_from_client, &meter.sent),
    ] {
        if let Some(bytes) = early {
            counter.fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
            if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
                return Spliced::default();
            }
        }
    }
    let mut spliced = splice(&mut client, &mut app, meter, LINGER, closed).await;
    if spliced.end == SpliceEnd::CircuitClosed {
        spliced.end = why();
        let (code, reason) = spliced.end.close_code();
        let (to_client, to_app) = (
            client.close_frame(code, reason),
            app.close_frame(code, reason),
        );
        let told = async { tokio::join!(tell(&mut client, to_client), tell(&mut app, to_app)) };
        // An end that does not read it in time is cut without a word.
        let _ = tokio::time::timeout(FAREWELL, told).await;
    }
    spliced
}

/// Says good-bye to an end, as far as it can be.
async fn tell(end: &mut Watched<Stream>, frame: Option<Vec<u8>>) {
    let told = async {
        end.write_all(&frame.unwrap_or_default()).await?;
        end.flush().await?;
        end.shutdown().await
    };
    // It has been cut off in any case.
    let _ = told.await;
}

fn drain(read: Option<pingora_core::Result<Option<bytes::Bytes>>>) -> Option<bytes::Bytes> {
    read?.ok()?.filter(|bytes| !bytes.is_empty())
}

/// Takes the client's connection out of Pingora's session. The session left in its place has read
/// a request, which Pingora's clean-up takes for granted, and keeps nothing alive.
pub async fn take_stream(session: &mut Session) -> Option<Stream> {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: spliced\r\n\r\n";
    let mut left = ServerSession::new_http1(Box::new(Cursor::new(REQUEST.to_vec())));
    left.read_request().await.ok()?;
    left.set_keepalive(None);
    match std::mem::replace(&mut *session.downstream_session, left) {
        ServerSession::H1(session) => Some(session.into_inner()),
        _ => None,
    }
}
