//! The `ProxyHttp` of circuits: the order of the stages, and nothing they could decide themselves.
//!
//! `frontend` feeds it connections. A request is inspected, located, admitted (`stage`), sent to
//! an upstream (`upstream`) and accounted for; upgrades and what is answered here have files of
//! their own. It refuses to parse, to judge and to wait on anything but sockets.

mod adapt;
mod answer;
mod faults;
mod report;
mod upgrade;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use patchbay_common::lifecycle::Drain;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::access_log::AccessLog;
use crate::context::{Context, MAX_ATTEMPTS};
use crate::error::Refusal;
use crate::metrics::Metrics;
use crate::setup::Tickets;
use crate::stage::{Stages, Verdict};
use crate::sync::Activity;
use crate::upstream::{Fault, PeerTemplate, Prober};

/// Path on an app's own host where a ticket is exchanged for a permit.
pub const PERMIT_PATH: &str = "/.patchbay/permit";

/// Between marks of use while an answer flows.
const MARK_PERIOD: Duration = Duration::from_millis(1_500);

/// What requests over circuits need.
pub struct CircuitProxy {
    /// The stages.
    pub stages: Stages,
    /// How upstreams are dialled.
    pub peers: PeerTemplate,
    /// Hears of upstream faults.
    pub prober: Arc<Prober>,
    /// Exchanges tickets for permits.
    pub tickets: Arc<Tickets>,
    /// Hears of use.
    pub activity: Arc<Activity>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Gets a line for each request.
    pub access_log: Arc<AccessLog>,
    /// Counts what is in flight.
    pub drain: Drain,
    /// Seconds an idle client connection is kept.
    pub keepalive: u64,
}

/// What is to be done with a request whose head has passed the stages.
enum Step {
    Forward,
    Upgrade,
    Exchange(Arc<crate::table::LiveCircuit>),
    Preflight(crate::stage::Preflight),
}

impl CircuitProxy {
    /// Runs the stages over the request's head.
    fn pass(&self, session: &Session, ctx: &mut Context) -> Result<Step, Refusal> {
        let view = adapt::View::of(session).ok_or(Refusal::Internal)?;
        let head = view.head();
        ctx.request_id = Some(self.stages.request_id(&head));
        head.method.clone_into(&mut ctx.method);
        head.path().clone_into(&mut ctx.path);
        let client = self.stages.client(&head);
        ctx.client = Some(client);
        self.stages.inspect(&head, view.raw())?;
        let circuit = self.stages.locate(&head, &client)?;
        ctx.circuit = Some(Arc::clone(&circuit));
        if head.path() == PERMIT_PATH {
            return Ok(Step::Exchange(circuit));
        }
        match self.stages.admit(&head, &client, circuit, unix_now())? {
            Verdict::Preflight(preflight) => Ok(Step::Preflight(preflight)),
            Verdict::Carry(admitted) => {
                ctx.credential = Some(admitted.credential);
                if let Some(guard) = adapt::guard(session) {
                    guard.carry(&admitted.circuit.closed);
                }
                let upgrade = crate::stream::websocket::is_upgrade(session.req_header());
                Ok(if upgrade {
                    Step::Upgrade
                } else {
                    Step::Forward
                })
            }
        }
    }

    /// Writes what the app is told, and takes out what it must not see.
    fn prepare(
        &self,
        session: &Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let id = ctx.id();
        let (Some(view), Some(client), Some(circuit)) =
            (adapt::View::of(session), ctx.client, ctx.circuit.as_ref())
        else {
            return Error::e_explain(ErrorType::InternalError, "the stages have not run");
        };
        adapt::remove_hop_by_hop(&mut adapt::Sink::of_request(request));
        let mut sink = adapt::Sink::of_request(request);
        self.stages
            .inject(&view.head(), &client, circuit, &id, &mut sink);
        sink.finish()
    }

    /// Writes what the client is told with an answer of the app's.
    fn dress(&self, answer: &mut ResponseHeader, ctx: &mut Context) -> Result<()> {
        let id = ctx.id();
        adapt::remove_hop_by_hop(&mut adapt::Sink::of_response(answer));
        let mut sink = adapt::Sink::of_response(answer);
        self.stages.dress(&id, &mut sink);
        sink.finish()
    }
}

#[async_trait]
impl ProxyHttp for CircuitProxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new()
    }

    /// No modules: each costs every request.
    fn init_downstream_modules(&self, _: &mut pingora_core::modules::http::HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        ctx.in_flight = Some(self.drain.enter());
        if let Some(guard) = adapt::guard(session) {
            guard.head_read();
        }
        let downstream = session.as_downstream_mut();
        // Setting it unasked would revive a connection the client wants closed.
        if downstream.get_keepalive().is_some() {
            let stopping = self.drain.is_stopping();
            downstream.set_keepalive((!stopping).then_some(self.keepalive));
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let step = match self.pass(session, ctx) {
            Ok(step) => step,
            Err(refusal) => return self.refuse(session, ctx, refusal).await.map(|()| true),
        };
        match step {
            Step::Forward => Ok(false),
            Step::Upgrade => self.upgrade(session, ctx).await.map(|()| true),
            Step::Exchange(circuit) => self.exchange(session, ctx, &circuit).await.map(|()| true),
            Step::Preflight(preflight) => self
                .answer_preflight(session, ctx, &preflight)
                .await
                .map(|()| true),
        }
    }

    async fn upstream_peer(&self, _: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let circuit = ctx.circuit.as_ref();
        let picked = circuit.and_then(|circuit| circuit.upstreams.pick(&ctx.tried));
        let Some(picked) = picked else {
            return faults::refuse(ctx, Refusal::NoUpstream);
        };
        if ctx.picked.is_none()
            && let Some(circuit) = circuit
        {
            self.activity.request(circuit, picked.session);
        }
        let address = picked.upstream.address().await;
        let upstream = Arc::clone(&picked.upstream);
        ctx.picked = Some(picked);
        match address {
            Ok(address) => Ok(Box::new(self.peers.http1(address))),
            Err(cause) => {
                log::debug!("{} does not resolve: {cause}", upstream.label);
                self.prober.report(&upstream, Fault::Resolve);
                faults::refuse(ctx, Refusal::UpstreamConnect)
            }
        }
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.prepare(session, request, ctx)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(picked) = &ctx.picked {
            self.prober.report(&picked.upstream, Fault::Connect);
            ctx.tried.push(Arc::clone(&picked.upstream));
        }
        let another = ctx
            .circuit
            .as_ref()
            .is_some_and(|circuit| circuit.upstreams.grants_retry(&ctx.tried));
        // Nothing has been sent, so any request may be sent elsewhere.
        error.set_retry(another && ctx.tried.len() < MAX_ATTEMPTS);
        error
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        _reused: bool,
        _: &HttpPeer,
        _: std::os::unix::io::RawFd,
        _: Option<&pingora_core::protocols::Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        if let Some(picked) = &ctx.picked {
            picked.upstream.health.connected();
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        _: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if answer.status.is_informational() {
            return Ok(());
        }
        ctx.first_byte.get_or_insert_with(|| ctx.started.elapsed());
        self.dress(answer, ctx)
    }

    /// A long answer is use for as long as it flows (contract/pitfalls.md A27).
    fn response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<bytes::Bytes>,
        _: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        if ctx.marked.elapsed() >= MARK_PERIOD
            && let (Some(circuit), Some(picked)) = (&ctx.circuit, &ctx.picked)
        {
            self.activity.stream_alive(circuit, picked.session);
            ctx.marked = Instant::now();
        }
        Ok(None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        self.answer_failure(session, error, ctx).await
    }

    /// Every failure has its line in the access log; Pingora's would say it a second time.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Context,
        _: &Error,
        _: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        self.report(session, error, ctx);
        if let Some(guard) = adapt::guard(session) {
            guard.rest();
        }
    }
}

/// Unix seconds.
fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
