//! Writes what is answered here by Pingora's session.

use pingora_core::Result;
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{Proxy, adapt, faults};
use crate::conduct::Answer;
use crate::context::Context;
use crate::error::Refusal;

impl Proxy {
    /// Answers with a refusal.
    pub(super) async fn refuse(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        refusal: Refusal,
    ) -> Result<()> {
        let accept = session
            .get_header("accept")
            .map(http::HeaderValue::as_bytes);
        let answer = self.conduct.refusal(refusal, accept, ctx);
        write(session, ctx, answer).await
    }

    /// Exchanges a ticket for a permit.
    pub(super) async fn exchange(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        let answer = match adapt::View::of(session) {
            Some(view) => self.conduct.exchange(&view.head(), ctx),
            None => return faults::refuse(ctx, Refusal::Internal),
        };
        write(session, ctx, answer).await
    }
}

/// Has the connection end with this answer if the request's body has not been read to its end:
/// what is left of it must never be looked at for the next head, and reading all of it only to
/// throw it away is work that anybody could order (RFC 9112 §9.3). To be called before the answer's
/// head is written, so that the client is told.
pub(super) fn end_if_unread(session: &mut Session) {
    let downstream = session.as_downstream_mut();
    if !downstream.is_http2() && !downstream.is_body_done() {
        downstream.set_keepalive(None);
    }
}

/// Ends a connection in order after its last answer, so that a client that is still sending does
/// not lose it.
pub(super) async fn hear_out(session: &mut Session) {
    if let ServerSession::H1(connection) = session.as_downstream_mut()
        && connection.finish_body().await.is_ok()
    {
        connection.shutdown().await;
    }
}

/// Writes an answer of our own.
pub(super) async fn write(session: &mut Session, ctx: &Context, answer: Answer) -> Result<()> {
    let mut head = ResponseHeader::build(answer.status, Some(answer.headers.len()))?;
    for (name, value) in answer.headers {
        head.append_header(name.into_owned(), value)?;
    }
    if answer.close {
        session.set_keepalive(None);
    }
    end_if_unread(session);
    let end = answer.body.is_empty() || ctx.method == "HEAD";
    if let (true, ServerSession::H2(stream)) = (end, session.as_downstream_mut()) {
        // Pingora's own call leaves a stream of HTTP/2 open.
        return stream.write_response_header(Box::new(head), true);
    }
    session.write_response_header(Box::new(head), end).await?;
    if !end {
        session.write_response_body(Some(answer.body), true).await?;
    }
    Ok(())
}
