//! Calls of agents and operators, and connections that become an agent's multiplexed one.

use std::sync::Arc;

use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{Proxy, adapt, answer, faults};
use crate::context::Context;
use crate::error::Refusal;
use crate::frontend::Control;
use crate::stream::websocket::take_stream;
use crate::tunnel::{Call, Calls, Reply, Session as AgentSession, TunnelError};

impl Proxy {
    /// Answers a call.
    pub(super) async fn call(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        let Some(calls) = self.conduct.tunnels.clone() else {
            return faults::refuse(ctx, Refusal::Internal);
        };
        let outcome = match read(session, &calls, &ctx.path).await? {
            Ok(body) => self.ask(session, ctx, &calls, body).await?,
            Err(error) => {
                // The rest of the body is not read.
                session.set_keepalive(None);
                Err(error)
            }
        };
        match outcome {
            Ok(reply) => {
                let prepared = self.conduct.reply(&reply, ctx);
                let written = answer::write(session, ctx, prepared).await;
                if written.is_err() {
                    reply.lost();
                }
                written
            }
            Err(error) => self.refuse(session, ctx, Refusal::Tunnel(error)).await,
        }
    }

    /// Waits for the answer, but not longer than the agent does.
    async fn ask(
        &self,
        session: &mut Session,
        ctx: &Context,
        calls: &Calls,
        body: Vec<u8>,
    ) -> Result<Result<Reply, TunnelError>> {
        let request = session.req_header().clone();
        let headers = adapt::Headers(&request.headers);
        let Some(client) = ctx.client else {
            return Ok(Err(TunnelError::Nothing));
        };
        let call = Call {
            method: request.method.as_str(),
            path: request.uri.path(),
            query: request.uri.query().unwrap_or_default(),
            headers: &headers,
            client: client.address.ip(),
            body,
        };
        let waits = call.path == patchbay_common::tunnel::path::PULL;
        let answer = calls.answer(call);
        tokio::pin!(answer);
        if !waits {
            return Ok(answer.await);
        }
        tokio::select! {
            biased;
            answer = &mut answer => Ok(answer),
            () = self.conduct.drain.stopping() => Ok(Ok(Reply::nothing_pulled())),
            gone = session.downstream_session.read_body_or_idle(true) => match gone {
                Err(error) => Err(error),
                // Bytes of a next request before this one's answer: they are not for us.
                Ok(_) => Ok(answer.await),
            },
        }
    }

    /// Makes the connection the agent's multiplexed one, and carries it to its end.
    pub(super) async fn attach(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        agent: &Arc<AgentSession>,
    ) -> Result<()> {
        let Some(calls) = self.conduct.tunnels.clone() else {
            return faults::refuse(ctx, Refusal::Internal);
        };
        if let Some(stream) = self.hand_out(session, ctx).await? {
            calls.registry.attach(agent, stream).await;
        }
        Ok(())
    }

    /// Makes the connection another gateway's multiplexed one, and carries it to its end.
    pub(super) async fn relay(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        let Some(calls) = self.conduct.tunnels.clone() else {
            return faults::refuse(ctx, Refusal::Internal);
        };
        if let Some(stream) = self.hand_out(session, ctx).await? {
            calls.registry.lend_on(stream).await;
        }
        Ok(())
    }

    /// Answers 101, and takes the connection out of Pingora's hands.
    async fn hand_out(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<Option<pingora_core::protocols::Stream>> {
        let mut head = ResponseHeader::build(101, Some(3))?;
        head.insert_header("connection", "Upgrade")?;
        head.insert_header("upgrade", patchbay_common::tunnel::UPGRADE)?;
        head.insert_header(patchbay_common::request_id::HEADER, ctx.id().as_str())?;
        session.write_response_header(Box::new(head), false).await?;
        adapt::with_guard(session, Control::free);
        let stream = take_stream(session).await;
        if stream.is_some() {
            ctx.spliced = Some(crate::context::Spliced::default());
        }
        Ok(stream)
    }
}

/// Reads a call's body.
async fn read(
    session: &mut Session,
    calls: &Calls,
    path: &str,
) -> Result<Result<Vec<u8>, TunnelError>> {
    let limit = calls.limit(path);
    let announced = session
        .get_header("content-length")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > limit) {
        return Ok(Err(TunnelError::TooLarge(limit)));
    }
    let (mut body, mut permit) = (Vec::new(), None);
    while let Some(piece) = session.downstream_session.read_request_body().await? {
        if body.len() + piece.len() > limit {
            return Ok(Err(TunnelError::TooLarge(limit)));
        }
        body.extend_from_slice(&piece);
        if permit.is_none() {
            permit = match calls.read_on(body.len()) {
                Ok(permit) => permit,
                Err(error) => return Ok(Err(error)),
            };
        }
    }
    Ok(Ok(body))
}
