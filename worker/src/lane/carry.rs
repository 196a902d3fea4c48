//! A request over one upstream connection, and its answer back.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context as Task, Poll};

use pingora_core::protocols::IO;
use tokio_util::sync::WaitForCancellationFuture;

use super::answer;
use super::connection::{Connection, READ};
use super::exchange::Account;
use super::flow::{Broken, Flow, Silence};
use super::forward::Upstream;
use super::head::{Field, Headers};
use super::memory::Memory;
use super::request::{Body, Request};
use super::response::Response;
use super::rewrite::Added;
use super::upload::Upload;
use crate::conduct::Conduct;
use crate::context::Context;

/// An exchange that broke: why, and whether another connection may carry it.
pub(super) struct Break {
    pub(super) cause: Broken,
    pub(super) again: bool,
}

/// What the answer is read and written with.
struct Desk<'a> {
    conduct: &'a Conduct,
    fields: &'a mut Vec<Field>,
    added: &'a mut Added,
    to_head: bool,
    /// The client wants the connection kept, and so do we.
    keep: bool,
    /// Body bytes that can be sent again to another upstream, if any can.
    at_hand: Option<u64>,
}

impl<S: IO + 'static> Connection<S> {
    /// Carries request and answer. True if the upstream connection can be used again.
    pub(super) async fn carry(
        &mut self,
        upstream: &mut Upstream,
        request: &Request,
        ctx: &mut Context,
        account: &mut Account,
    ) -> Result<bool, Break> {
        let keep = !request.close && !self.is_last();
        let method = request.method.bytes(&self.memory.head);
        let to_head = method == b"HEAD";
        let kept = request.body != Body::Chunked;
        let repeatable = kept && !matches!(method, b"POST" | b"PATCH");
        let at_hand = account.bytes_in;
        let Memory {
            up,
            down,
            request: bytes,
            out,
            answer_fields: fields,
            added,
            ..
        } = &mut self.memory;
        down.grow(READ);
        down.clear();
        let mut flow = Flow {
            client: &mut self.client,
            upstream: &mut upstream.stream,
            up,
            request: bytes,
            sent: 0,
            upload: Upload::of(request.body, at_hand),
            limit: ctx.body_limit,
            refused: false,
            down,
            out,
            out_sent: 0,
            ready: 0,
            tail: b"",
            answered: false,
            began: false,
            tokens: None,
            pulse: ctx.pace.as_ref().map(|pace| pace.pulse().clone()),
            bytes_in: at_hand,
            bytes_out: 0,
            silence: ctx
                .visit
                .as_deref()
                .and_then(|visit| visit.route.response_timeout)
                .map(Silence::new),
        };
        let desk = Desk {
            conduct: &self.lane.conduct,
            fields,
            added,
            to_head,
            keep,
            at_hand: kept.then_some(at_hand),
        };
        let carried = desk.run(&mut flow, ctx, account).await;
        account.bytes_in = flow.bytes_in;
        account.bytes_out = flow.bytes_out;
        account.uploaded = flow.upload.ended();
        carried.map_err(|cause| Break {
            cause,
            again: repeatable && !flow.answered && flow.bytes_in == at_hand,
        })
    }
}

impl Desk<'_> {
    async fn run<S: IO>(
        mut self,
        flow: &mut Flow<'_, S>,
        ctx: &mut Context,
        account: &mut Account,
    ) -> Result<bool, Broken> {
        let closed = ctx.stop();
        let mut closed = pin!(closed.cancelled());
        let answer = loop {
            let answer = unless(closed.as_mut(), |cx| {
                flow.poll_answer(cx, self.to_head, self.fields)
            })
            .await?;
            match answer.status {
                // Nobody has asked for another protocol.
                101 => return Err(Broken::Upstream("InvalidHTTPHeader")),
                100..=199 => {
                    self.interim(&answer, flow);
                    unless(closed.as_mut(), |cx| flow.poll_out(cx)).await?;
                    unless(closed.as_mut(), |cx| flow.poll_flush(cx)).await?;
                }
                _ => break answer,
            }
        };
        let whole = Some(flow.bytes_in) == self.at_hand && flow.upload.ended();
        if self.conduct.answered(ctx, answer.status, whole) {
            return Err(Broken::Refused);
        }
        // The client of a body that is still on its way cannot begin another request.
        let keep = self.keep && flow.upload.ended();
        let headers = Headers {
            bytes: flow.down.data(),
            fields: self.fields,
            neat_until: answer.neat_until,
        };
        let told = (&answer, headers);
        answer::dressed(self.conduct, ctx, told, keep, (self.added, flow.out));
        flow.down.consume(answer.length);
        flow.tokens = ctx.tokens.take();
        let mut framing = answer.framing;
        flow.begin_body(&mut framing)?;
        let conduct = self.conduct;
        let mut flows = || conduct.flows(ctx);
        let sent = unless(closed, |cx| flow.poll_body(cx, &mut framing, &mut flows)).await;
        account.status = flow.began.then_some(answer.status);
        sent?;
        account.kept = keep;
        Ok(answer.keeps && flow.uploaded() && flow.down.is_empty())
    }

    fn interim<S>(&mut self, answer: &Response, flow: &mut Flow<'_, S>) {
        let headers = Headers {
            bytes: flow.down.data(),
            fields: self.fields,
            neat_until: answer.neat_until,
        };
        answer::interim(answer, headers, self.added, flow.out);
        flow.down.consume(answer.length);
    }
}

/// Polls until it is ready or the circuit closes. A circuit is looked at only while something
/// else is waited for.
async fn unless<T>(
    mut closed: Pin<&mut WaitForCancellationFuture<'_>>,
    mut poll: impl FnMut(&mut Task<'_>) -> Poll<Result<T, Broken>>,
) -> Result<T, Broken> {
    poll_fn(|cx| {
        let polled = poll(cx);
        if polled.is_pending() && closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Broken::Closed));
        }
        polled
    })
    .await
}
