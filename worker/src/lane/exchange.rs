//! One plain request from its head to its line in the log, as `conduct` says.

use pingora_core::protocols::IO;
use tokio::io::AsyncWriteExt as _;

use super::answer;
use super::connection::{After, Connection};
use super::head::Headers;
use super::request::{Body, Reason, Request};
use crate::conduct::{Answer, Outcome, Raw, Step};
use crate::context::Context;
use crate::error::Refusal;
use crate::metrics::Engine;
use crate::stage::{Head, HeaderLookup as _};

/// What an exchange has come to.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) status: Option<u16>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// All of the body has been taken from the client.
    pub(super) uploaded: bool,
    /// Bytes of the head that the app is sent, once that is written.
    pub(super) head_length: usize,
    pub(super) client_gone: bool,
    pub(super) failure: Option<&'static str>,
    /// The connection can carry another request.
    pub(super) kept: bool,
}

impl<S: IO + 'static> Connection<S> {
    /// Carries a request whose head is at the front of what has been read.
    pub(super) async fn exchange(&mut self, request: Request) -> After {
        let memory = &mut self.memory;
        memory.head.clear();
        memory
            .head
            .extend_from_slice(&memory.up.data()[..request.length]);
        memory.request.clear();
        let mut account = Account {
            uploaded: request.body == Body::Length(0),
            ..Account::default()
        };
        let mut ctx = Context::new();
        ctx.lean = true;
        self.lane.conduct.begin(&mut ctx);
        let mut step = self.pass(&request, &mut ctx);
        if let Some(reason) = self.elsewhere(&step, &ctx) {
            return After::HandOver(reason);
        }
        while let Ok(Step::Wait(wait)) = step {
            self.lane.conduct.wait(wait, &mut ctx).await;
            step = self.proceed(&request, &mut ctx);
        }
        self.memory.up.consume(request.length);
        self.lane.conduct.metrics.carried_by(Engine::Lane);
        let answer = match step {
            Ok(Step::Forward) => match self.forward(&request, &mut ctx, &mut account).await {
                Ok(()) => None,
                Err(refusal) => Some((self.refusal(refusal, &mut ctx), false)),
            },
            Ok(Step::Exchange) => Some((self.redeem(&request, &mut ctx), true)),
            Ok(Step::Preflight(preflight)) => {
                Some((self.lane.conduct.preflight(&preflight, &mut ctx), true))
            }
            Ok(Step::Answer(answer)) => Some((answer, true)),
            // Upgrades are not plain, waits are over, and the rest has been handed over.
            Ok(
                Step::Upgrade
                | Step::Events
                | Step::Wait(_)
                | Step::Call
                | Step::Elsewhere
                | Step::Attach(_)
                | Step::Relay,
            ) => Some((self.refusal(Refusal::Internal, &mut ctx), false)),
            Err(refusal) => Some((self.refusal(refusal, &mut ctx), true)),
        };
        if let Some((answer, keep)) = answer {
            self.answer(&request, &answer, keep, &mut account).await;
        }
        let outcome = Outcome {
            status: account.status,
            bytes_in: account.bytes_in,
            bytes_out: account.bytes_out,
            client_gone: account.client_gone,
            failure: account.failure,
        };
        self.lane.conduct.report(&outcome, &mut ctx);
        let finished = request.close && account.uploaded && self.memory.up.is_empty();
        match (account.kept, finished) {
            (true, _) => After::Kept,
            (false, true) => After::Ended,
            (false, false) => After::Closed,
        }
    }

    /// Why a request that has passed the first stages is the other engine's all the same. None of
    /// them has done anything yet that must not be done twice.
    fn elsewhere(&self, step: &Result<Step, Refusal>, ctx: &Context) -> Option<Reason> {
        let target = ctx.target.as_ref();
        match step {
            Ok(Step::Call | Step::Attach(_)) => Some(Reason::Call),
            Ok(Step::Elsewhere) => Some(Reason::Changed),
            Ok(Step::Forward) => self.lane.spares(target?),
            _ => None,
        }
    }

    pub(super) fn headers(&self) -> Headers<'_> {
        Headers {
            bytes: &self.memory.head,
            fields: &self.memory.fields,
            // The head is a plain request's, the empty line and all.
            neat_until: self.memory.head.len().checked_sub(2),
        }
    }

    pub(super) fn head<'a>(&self, request: &Request, headers: &'a Headers<'a>) -> Head<'a> {
        Head {
            method: request.method.text(headers.bytes),
            target: request.target.text(headers.bytes),
            authority: None,
            is_http11: true,
            headers,
            peer: self.peer,
            local: self.local,
            tls: self.tls,
        }
    }

    fn pass(&self, request: &Request, ctx: &mut Context) -> Result<Step, Refusal> {
        let headers = self.headers();
        // A head that is not neat has been handed over, and so has one beyond the limits.
        let head = self.head(request, &headers);
        self.lane.conduct.pass(&head, Raw::Neat, ctx)
    }

    fn proceed(&self, request: &Request, ctx: &mut Context) -> Result<Step, Refusal> {
        let headers = self.headers();
        let head = self.head(request, &headers);
        self.lane.conduct.proceed(&head, ctx)
    }

    fn redeem(&self, request: &Request, ctx: &mut Context) -> Answer {
        let headers = self.headers();
        let head = self.head(request, &headers);
        self.lane.conduct.exchange(&head, ctx)
    }

    fn refusal(&self, refusal: Refusal, ctx: &mut Context) -> Answer {
        let headers = self.headers();
        let accept = headers.get("accept");
        self.lane.conduct.refusal(refusal, accept, ctx)
    }

    /// Writes an answer of our own.
    async fn answer(
        &mut self,
        request: &Request,
        answer: &Answer,
        keep: bool,
        account: &mut Account,
    ) {
        // A body that nobody reads would be taken for the next request.
        let keep = keep && !answer.close && !request.close && account.uploaded;
        let keep = keep && !self.is_last();
        let to_head = request.method.bytes(&self.memory.head) == b"HEAD";
        answer::own(answer, to_head, keep, &mut self.memory.out);
        let written = async {
            self.client.write_all(&self.memory.out).await?;
            self.client.flush().await
        };
        if written.await.is_err() {
            account.client_gone = true;
            account.failure = Some("WriteError");
            return;
        }
        account.status = Some(answer.status);
        account.bytes_out = if to_head { 0 } else { answer.body.len() as u64 };
        account.kept = keep;
    }
}
