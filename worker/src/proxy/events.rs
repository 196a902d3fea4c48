//! An event stream (the HTML standard's server-sent events) on a route that watches over it: a
//! comment where the service is silent, so that nobody between takes the connection for dead, and
//! an end where it is silent for too long.
//!
//! Pingora wakes nobody while an app is silent, so the stream is carried here as an upgrade is. It
//! has a connection of its own; an answer that is no event stream passes like any other.

use std::time::Duration;

use bytes::Bytes;
use pingora_core::Result;
use pingora_core::protocols::http::v1::client::HttpSession as UpstreamSession;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use tokio::time::{Instant, sleep_until};

use super::{Account, Proxy, adapt, faults};
use crate::error::Refusal;
use crate::stream::websocket::Answer;

/// A line that readers pass over. It may stand wherever a line begins.
const COMMENT: Bytes = Bytes::from_static(b":\n");
/// Longer than any stream.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

/// How silent a stream may be.
#[derive(Clone, Copy, Debug)]
struct Silence {
    /// After this a comment is sent.
    comment: Duration,
    /// After this it ends.
    end: Duration,
}

impl Proxy {
    /// Carries the request and the stream that comes back.
    pub(super) async fn events(&self, session: &mut Session, ctx: &mut Account) -> Result<()> {
        let Some(target) = ctx.target.clone() else {
            return self.refuse(session, ctx, Refusal::Internal).await;
        };
        let answer = match self.dial(&target, ctx).await {
            Ok(stream) => {
                let request = self.events_request(session, ctx)?;
                self.exchange_heads(stream, request, ctx).await
            }
            Err(refusal) => Err(refusal),
        };
        match answer {
            Ok(Answer::Ordinary(mut head, mut upstream)) => {
                self.conduct.answered(ctx, head.status.as_u16(), false);
                self.dress(&mut head, ctx)?;
                self.encode(session, &mut head, ctx)?;
                let silence = silence(&head, ctx);
                if !session.as_downstream().is_http2()
                    && head.headers.get("content-length").is_none()
                {
                    head.insert_header("transfer-encoding", "chunked")?;
                }
                session.write_response_header(head, false).await?;
                carry(session, &mut upstream, silence, ctx).await
            }
            // Nobody asked for another protocol.
            Ok(Answer::Switched(..)) => self.refuse(session, ctx, Refusal::UpstreamBroke).await,
            Err(refusal) => self.refuse(session, ctx, refusal).await,
        }
    }

    fn events_request(&self, session: &Session, ctx: &mut Account) -> Result<RequestHeader> {
        let mut request = session.req_header().clone();
        self.prepare(session, &mut request, ctx)?;
        if request.headers.get("host").is_none() {
            // HTTP/2 has it in the request's target.
            let Some(view) = adapt::View::of(session) else {
                return faults::refuse(ctx, Refusal::Internal);
            };
            let host = view.head().host().unwrap_or_default().to_owned();
            request.insert_header("host", host)?;
        }
        request.set_version(http::Version::HTTP_11);
        request.insert_header("connection", "close")?;
        Ok(request)
    }
}

/// What is asked of an answer with this head.
fn silence(head: &ResponseHeader, ctx: &Account) -> Silence {
    let value = |name: &str| head.headers.get(name).map(http::HeaderValue::as_bytes);
    let is_events = value("content-type").is_some_and(|kind| {
        let bare = kind.split(|byte| *byte == b';').next().unwrap_or_default();
        bare.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    });
    let route = ctx.visit.as_deref().map(|visit| &visit.route);
    let wanted = |limit: Option<Option<Duration>>| limit.flatten().filter(|_| is_events);
    // What the service has compressed nobody can add a line to.
    let open = ctx.encoder.is_some() || value("content-encoding").is_none();
    let comment = wanted(route.map(|route| route.sse_keepalive)).filter(|_| open);
    let end = wanted(route.map(|route| route.idle_timeout));
    Silence {
        comment: comment.unwrap_or(NEVER),
        end: end.unwrap_or(NEVER),
    }
}

async fn carry(
    session: &mut Session,
    upstream: &mut UpstreamSession,
    silence: Silence,
    ctx: &mut Account,
) -> Result<()> {
    let mut begins_line = true;
    loop {
        let heard = Instant::now();
        let mut said = heard;
        // One read at a time, and never broken off: it may hold part of a chunk's head.
        let reading = upstream.read_body_bytes();
        tokio::pin!(reading);
        let piece = loop {
            let wake = (said + silence.comment).min(heard + silence.end);
            tokio::select! {
                piece = &mut reading => break piece.map_err(|error| error.into_up())?,
                gone = session.downstream_session.read_body_or_idle(true) => {
                    // The stream ends when its reader does.
                    return gone.map(drop).map_err(|error| error.into_down());
                }
                () = sleep_until(wake) => {
                    said = Instant::now();
                    if said >= heard + silence.end {
                        return send(session, ctx, None, true).await;
                    }
                    if begins_line {
                        send(session, ctx, Some(COMMENT), false).await?;
                    }
                }
            }
        };
        let Some(piece) = piece else {
            return send(session, ctx, None, true).await;
        };
        begins_line = piece.last().map_or(begins_line, |last| *last == b'\n');
        send(session, ctx, Some(piece), false).await?;
    }
}

async fn send(
    session: &mut Session,
    ctx: &mut Account,
    mut piece: Option<Bytes>,
    end: bool,
) -> Result<()> {
    ctx.compress(&mut piece, end)?;
    if piece.is_none() && !end {
        return Ok(());
    }
    session.write_response_body(piece, end).await
}
