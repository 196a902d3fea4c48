//! Pingora's engine: a `ProxyHttp` that does what `conduct` says at each of Pingora's hooks.
//!
//! `frontend` feeds it connections. Here Pingora's heads become the stages' (`adapt`), its errors
//! refusals (`faults`), and upgrades leave its hands (`upgrade`). It refuses to judge requests and
//! to wait on anything but sockets.

mod account;
mod adapt;
mod answer;
mod calls;
mod events;
mod faults;
mod grpc_web;
mod report;
mod streams;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use patchbay_common::circuit::Protocol;
use pingora_core::protocols::http::ServerSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::conduct::{Conduct, Step};
use crate::context::Context;
use crate::error::Refusal;
use crate::frontend::Control;
use crate::metrics;
use crate::target::Target;
use crate::upstream::{Fault, PeerTemplate};

use account::Account;
use grpc_web::Bridge;
pub use streams::Engine;

/// Carries requests by Pingora's engine.
pub struct Proxy {
    /// How requests are conducted.
    pub conduct: Arc<Conduct>,
    /// How upstreams are dialled.
    pub peers: PeerTemplate,
    /// Seconds an idle client connection is kept.
    pub keepalive: u64,
}

impl Proxy {
    /// Runs the stages over the request's head.
    fn pass(&self, session: &Session, ctx: &mut Context) -> Result<Step, Refusal> {
        let view = adapt::View::of(session).ok_or(Refusal::Internal)?;
        let step = self.conduct.pass(&view.head(), view.raw(), ctx)?;
        let mut strange = false;
        adapt::with_guard(session, |guard| strange = guard.line_is_strange());
        if strange {
            return Err(Refusal::BadRequest("white space in the target"));
        }
        Ok(step)
    }

    /// Runs what is left of them after a wait.
    fn proceed(&self, session: &Session, ctx: &mut Context) -> Result<Step, Refusal> {
        let view = adapt::View::of(session).ok_or(Refusal::Internal)?;
        self.conduct.proceed(&view.head(), ctx)
    }

    /// Writes what the app is told, and takes out what it must not see.
    fn prepare(
        &self,
        session: &Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let Some(view) = adapt::View::of(session) else {
            return faults::refuse(ctx, Refusal::Internal);
        };
        adapt::remove_hop_by_hop(&mut adapt::Sink::of_request(request));
        let mut sink = adapt::Sink::of_request(request);
        if let Err(refusal) = self.conduct.inject(&view.head(), ctx, &mut sink) {
            return faults::refuse(ctx, refusal);
        }
        sink.finish()?;
        if session.as_downstream().is_http2() {
            adapt::join_cookies(request)?;
        } else {
            adapt::take_origin_form(request);
        }
        if let Some(target) = self.conduct.target(&view.head(), ctx) {
            match target.parse() {
                Ok(uri) => request.set_uri(uri),
                Err(_) => return faults::refuse(ctx, Refusal::BadRequest("the path is not one")),
            }
        }
        Ok(())
    }

    /// Writes what the client is told with an answer of the app's.
    fn dress(&self, answer: &mut ResponseHeader, ctx: &mut Context) -> Result<()> {
        adapt::remove_hop_by_hop(&mut adapt::Sink::of_response(answer));
        let mut sink = adapt::Sink::of_response(answer);
        self.conduct.dress(ctx, &mut sink);
        sink.finish()
    }

    /// Makes the answer's head that of a compressed one, if it is to be one.
    fn encode(
        &self,
        session: &Session,
        answer: &mut ResponseHeader,
        ctx: &mut Account,
    ) -> Result<()> {
        let status = answer.status.as_u16();
        let mut sink = adapt::Sink::of_response(answer);
        ctx.encoder = self.conduct.encode(status, ctx, &mut sink);
        sink.finish()?;
        if ctx.encoder.is_some() && !session.as_downstream().is_http2() {
            answer.insert_header("transfer-encoding", "chunked")?;
        }
        Ok(())
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Account;

    fn new_ctx(&self) -> Account {
        Account::open(&self.conduct)
    }

    /// No modules: each costs every request.
    fn init_downstream_modules(&self, _: &mut pingora_core::modules::http::HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Account) -> Result<()> {
        self.conduct.metrics.carried_by(metrics::Engine::Proxy);
        self.conduct.begin(ctx);
        let mut heads = 0;
        adapt::with_guard(session, |guard| heads = guard.head_read());
        let most = self.conduct.limits.requests_per_connection;
        let last = most != 0 && heads >= most;
        let last = last || self.conduct.drain.is_stopping() || adapt::wants_close(session);
        let old = session.req_header().version < http::Version::HTTP_11;
        let downstream = session.as_downstream_mut();
        // Setting it unasked would revive a connection the client wants closed.
        if downstream.get_keepalive().is_some() {
            downstream.set_keepalive((!last).then_some(self.keepalive));
        }
        if let (ServerSession::H1(connection), true) = (downstream, old) {
            // It knows of no interim answers (RFC 9110 §15.2).
            connection.set_ignore_info_resp(true);
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Account) -> Result<bool> {
        let mut step = self.pass(session, ctx);
        while let Ok(Step::Wait(wait)) = step {
            self.conduct.wait(wait, ctx).await;
            step = self.proceed(session, ctx);
        }
        if ctx.target.is_some() {
            let stop = ctx.stop();
            adapt::with_guard(session, |guard| guard.carry(&stop));
        }
        let step = match step {
            Ok(step) => step,
            Err(refusal) => return self.refuse(session, ctx, refusal).await.map(|()| true),
        };
        match step {
            Step::Forward => Ok(false),
            Step::Upgrade => self.upgrade(session, ctx).await.map(|()| true),
            Step::Events => self.events(session, ctx).await.map(|()| true),
            Step::Exchange => self.exchange(session, ctx).await.map(|()| true),
            Step::Call => self.call(session, ctx).await.map(|()| true),
            Step::Attach(agent) => self.attach(session, ctx, &agent).await.map(|()| true),
            Step::Relay => self.relay(session, ctx).await.map(|()| true),
            Step::Preflight(preflight) => {
                let answer = self.conduct.preflight(&preflight, ctx);
                answer::write(session, ctx, answer).await.map(|()| true)
            }
            Step::Answer(answer) => answer::write(session, ctx, answer).await.map(|()| true),
            // Waited for above; for lean engines.
            Step::Wait(_) | Step::Elsewhere => faults::refuse(ctx, Refusal::Internal),
        }
    }

    async fn upstream_peer(&self, _: &mut Session, ctx: &mut Account) -> Result<Box<HttpPeer>> {
        let upstream = match self.conduct.pick(ctx).await {
            Ok(upstream) => upstream,
            Err(refusal) => return faults::refuse(ctx, refusal),
        };
        let protocol = ctx.target.as_ref().map_or(Protocol::Http, Target::protocol);
        match self.peers.peer(&upstream, protocol).await {
            Ok(mut peer) => {
                let visit = ctx.visit.as_deref();
                let circuit = ctx.target.as_ref().and_then(Target::circuit);
                let own = circuit.map(|_| self.conduct.patience(ctx).connect);
                if let Some(time) = own.or_else(|| visit?.route.connect_timeout) {
                    peer.options.connection_timeout = Some(time);
                    peer.options.total_connection_timeout = Some(time);
                }
                peer.options.read_timeout = visit.and_then(|visit| visit.route.response_timeout);
                Ok(Box::new(peer))
            }
            Err(cause) => {
                log::debug!("{} does not resolve: {cause}", upstream.label);
                self.conduct.unreachable(ctx, Fault::Resolve);
                faults::refuse(ctx, Refusal::UpstreamConnect)
            }
        }
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Account,
    ) -> Result<()> {
        let trailers = adapt::takes_trailers(session);
        self.prepare(session, request, ctx)?;
        if !ctx.speaks_http2() {
            return Ok(());
        }
        if trailers {
            // Of one connection only, but gRPC's servers insist on it.
            request.insert_header("te", "trailers")?;
        }
        ctx.bridge = Bridge::of(ctx.grpc);
        ctx.bridge.request(request)
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<bytes::Bytes>,
        end: bool,
        ctx: &mut Account,
    ) -> Result<()> {
        let bytes = body.as_ref().map_or(0, bytes::Bytes::len);
        if let Err(refusal) = self.conduct.received(bytes, ctx) {
            return faults::refuse(ctx, refusal);
        }
        ctx.bridge.request_body(body, end)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Account,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let fault = faults::of_connect(&error);
        let another = self.conduct.unreachable(ctx, fault);
        error.set_retry(another);
        error
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        _: std::os::unix::io::RawFd,
        _: Option<&pingora_core::protocols::Digest>,
        ctx: &mut Account,
    ) -> Result<()> {
        self.conduct.connected(ctx);
        if reused {
            self.conduct.reused(ctx);
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut Account,
    ) -> Result<()> {
        let replayable = !session.as_ref().retry_buffer_truncated();
        let status = answer.status;
        // Upgrades leave Pingora's hands before they come here: nobody has asked for one.
        if status == http::StatusCode::SWITCHING_PROTOCOLS || !adapt::is_framed(answer) {
            return faults::refuse(ctx, Refusal::UpstreamBroke);
        }
        if !status.is_informational() && self.conduct.answered(ctx, status.as_u16(), replayable) {
            return Err(faults::try_another());
        }
        Ok(())
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Account,
        reused: bool,
    ) -> Box<Error> {
        if faults::is_decided(&error) {
            return error;
        }
        let mut error = error.more_context(format!("Peer: {peer}"));
        let replayable = !session.as_ref().retry_buffer_truncated();
        if session.response_written().is_some() {
            error.set_retry(false);
            return error;
        }
        if reused {
            // An idle connection that ended says nothing about the upstream.
            let idempotent = session.req_header().method.is_idempotent();
            error.retry.decide_reuse(idempotent && replayable);
            return error;
        }
        error.set_retry(false);
        if let Some(fault) = faults::of_exchange(&error) {
            let late = fault == Fault::FirstByteTimeout;
            let another = self.conduct.failed(ctx, fault, true);
            error.set_retry(another && replayable && !late);
        }
        error
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut Account,
    ) -> Result<()> {
        if answer.status.is_informational() {
            return Ok(());
        }
        answer::end_if_unread(session);
        adapt::speak_to(session, answer);
        self.dress(answer, ctx)?;
        self.encode(session, answer, ctx)?;
        ctx.bridge.answer(answer)
    }

    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        trailers: &mut http::HeaderMap,
        ctx: &mut Account,
    ) -> Result<Option<bytes::Bytes>> {
        Ok(ctx.bridge.trailers(trailers))
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<bytes::Bytes>,
        end: bool,
        ctx: &mut Account,
    ) -> Result<Option<Duration>> {
        ctx.bridge.answer_body(body);
        if let (Some(tokens), Some(piece)) = (&mut ctx.tokens, &body) {
            tokens.see(piece);
        }
        ctx.compress(body, end)?;
        self.conduct.flows(ctx);
        Ok(None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Account,
    ) -> FailToProxy {
        let (fate, whole) = self.answer_failure(session, error, ctx).await;
        ctx.hears_out = whole;
        fate
    }

    /// Every failure has its line in the access log; Pingora's would say it a second time.
    fn suppress_error_log(&self, _: &Session, _: &Account, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Account,
        _: &Error,
        _: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Account) {
        self.report(session, error, ctx);
        adapt::with_guard(session, Control::rest);
        if ctx.hears_out {
            answer::hear_out(session).await;
        }
    }
}
