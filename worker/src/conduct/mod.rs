//! How a request is conducted from its head to its line in the log, whichever engine carries it.
//!
//! Engines (`proxy` over Pingora) read heads, move bytes and answer; here is what they do it by:
//! the order of the stages, the choice of an upstream and what its faults mean, the headers of
//! both directions, the answers of our own, the account at the end. It refuses to read or write
//! sockets and to know any engine's types.

mod answer;
mod gateway;
mod grpc;
mod lent;
mod pace;
mod report;
mod sampling;
mod tokens;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use patchbay_common::circuit::AppMode;
use patchbay_common::lifecycle::Drain;
use patchbay_common::request_id;
use patchbay_common::tunnel::path;

use crate::access_log::AccessLog;
use crate::config::{Limits, Patience, Timeouts};
use crate::context::{Context, MAX_ATTEMPTS};
use crate::error::Refusal;
use crate::explain::Explain;
use crate::gateway::Gateway;
use crate::gateway::chain::Wait;
use crate::metrics::Metrics;
use crate::setup::{PERMIT_PATH, Tickets};
use crate::stage::{Client, Head, HeaderSink, Preflight, Stages, Verdict, trace_parent};
use crate::sync::Activity;
use crate::target::Target;
use crate::tunnel::{Admission, Calls, Session, strip};
use crate::upstream::{self, Ask, Fault, Prober, Upstream, may_retry};

pub use answer::Answer;
pub use grpc::Grpc;
pub use pace::{Pace, Pulse, TimeOut};
pub use report::Outcome;
pub use sampling::Sampling;
pub use tokens::Tokens;

/// Between marks of use while an answer flows.
const MARK_PERIOD: Duration = Duration::from_millis(1_500);

/// Where requests come in.
#[derive(Clone, Debug)]
pub enum Entrance {
    /// The slots of circuits.
    Circuits,
    /// The gateway.
    Gateway(Arc<Gateway>),
}

/// What is done with WebSockets while they are carried.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamHabits {
    /// A line for each message.
    pub log_messages: bool,
    /// Only messages count as use, not pings and an open connection.
    pub data_is_use: bool,
}

/// What conducting requests needs.
pub struct Conduct {
    /// Where they come in.
    pub entrance: Entrance,
    /// The stages.
    pub stages: Stages,
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
    /// Which requests get one.
    pub sampling: Sampling,
    /// Counts what is in flight.
    pub drain: Drain,
    /// At the gateway: tunnels, where agents may register.
    pub tunnels: Option<Arc<Calls>>,
    /// What a request may cost.
    pub limits: Limits,
    /// How long apps are waited for.
    pub timeouts: Timeouts,
    /// What is done with WebSockets.
    pub stream_habits: StreamHabits,
    /// Remembers what became of requests.
    pub explain: Arc<Explain>,
}

/// What is to be done with a request whose head has passed the stages.
#[derive(Debug)]
pub enum Step {
    /// Send it to an upstream.
    Forward,
    /// Send it to an upstream as a WebSocket's opening handshake.
    Upgrade,
    /// Send it to an upstream, and watch over the event stream that comes back.
    Events,
    /// Answer it here: exchange the ticket in the query for a permit.
    Exchange,
    /// Answer it here: a CORS preflight.
    Preflight(Preflight),
    /// Answer it here, with this.
    Answer(Answer),
    /// Give this to [`Conduct::wait`], then go on with [`Conduct::proceed`].
    Wait(Wait),
    /// Answer it here: a call of an agent's or an operator's, once its body has been read.
    Call,
    /// The engine that asked is lean ([`Context::lean`]) and this takes the other one: give it the
    /// request untouched. No stage has run.
    Elsewhere,
    /// The connection becomes the multiplexed one of this session.
    Attach(Arc<Session>),
    /// The connection becomes the multiplexed one of another gateway.
    Relay,
}

/// How a head came.
#[derive(Clone, Copy, Debug)]
pub enum Raw<'a> {
    /// In these bytes.
    Bytes(&'a [u8]),
    /// In frames of HTTP/2.
    Frames,
    /// In bytes of which the engine has seen that no stage could object to their form: written to
    /// the letter of the standard, framed once, and within the limits.
    Neat,
}

impl Conduct {
    /// A request begins: its head has been read.
    pub fn begin(&self, ctx: &mut Context) {
        ctx.in_flight = Some(self.drain.enter());
    }

    /// Runs the stages over a head, which came as `raw`.
    ///
    /// # Errors
    /// Why the request is not carried.
    pub fn pass(&self, head: &Head<'_>, raw: Raw<'_>, ctx: &mut Context) -> Result<Step, Refusal> {
        ctx.request_id = Some(self.stages.request_id(head));
        ctx.method = known_method(head.method);
        head.path().clone_into(&mut ctx.path);
        ctx.trace = trace_parent(head).map(Into::into);
        ctx.grpc = Grpc::of(head);
        let client = self.stages.client(head);
        ctx.client = Some(client);
        match raw {
            Raw::Neat => {}
            Raw::Bytes(raw) => {
                self.stages.inspect(head, Some(raw))?;
                self.bound_head(raw)?;
            }
            Raw::Frames => self.stages.inspect(head, None)?,
        }
        match &self.entrance {
            Entrance::Circuits => self.pass_circuit(head, &client, ctx),
            Entrance::Gateway(gateway) => match self.pass_lent(head, ctx)? {
                Some(step) => Ok(step),
                None => self.pass_gateway(gateway, head, ctx),
            },
        }
    }

    fn pass_circuit(
        &self,
        head: &Head<'_>,
        client: &Client,
        ctx: &mut Context,
    ) -> Result<Step, Refusal> {
        let circuit = self.stages.locate(head, client)?;
        ctx.target = Some(Target::Circuit(Arc::clone(&circuit)));
        if head.path() == PERMIT_PATH {
            return Ok(Step::Exchange);
        }
        match self.stages.admit(head, client, &circuit, unix_now())? {
            Verdict::Preflight(preflight) => Ok(Step::Preflight(preflight)),
            Verdict::Carry(right) => {
                ctx.right = Some(right);
                self.bound_body(head, ctx)?;
                let mut patience = self.patience(ctx);
                let step = if head.is_upgrade() {
                    // What is carried after it has a time of its own.
                    (patience.idle, patience.total) = (None, None);
                    Step::Upgrade
                } else {
                    Step::Forward
                };
                ctx.pace = Pace::begin(&patience, &ctx.stop());
                Ok(step)
            }
        }
    }

    /// How long the app of a request is waited for.
    pub fn patience(&self, ctx: &Context) -> Patience {
        let circuit = ctx.target.as_ref().and_then(Target::circuit);
        let app = circuit.and_then(|live| live.circuit.app.as_deref());
        self.timeouts.of(app)
    }

    fn bound_head(&self, raw: &[u8]) -> Result<(), Refusal> {
        let lines = raw.iter().filter(|byte| **byte == b'\n').count();
        // The request line and the empty line are none.
        let fields = lines.saturating_sub(2);
        let fits =
            fields <= self.limits.header_fields && raw.len() as u64 <= self.limits.header_bytes.0;
        if fits {
            Ok(())
        } else {
            Err(Refusal::HeadTooLarge)
        }
    }

    fn bound_body(&self, head: &Head<'_>, ctx: &mut Context) -> Result<(), Refusal> {
        let circuit = ctx.target.as_ref().and_then(Target::circuit);
        let app = circuit.and_then(|live| live.circuit.app.as_deref());
        ctx.body_limit = self.limits.body_of(app);
        if ctx.body_limit == 0 {
            return Ok(());
        }
        let length = head.headers.get("content-length");
        let length: Option<u64> =
            length.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
        match length {
            Some(length) if length > ctx.body_limit => Err(Refusal::BodyTooLarge(ctx.body_limit)),
            _ => Ok(()),
        }
    }

    /// A piece of the request's body has come.
    ///
    /// # Errors
    /// [`Refusal::BodyTooLarge`] if it is one too many.
    pub fn received(&self, bytes: usize, ctx: &mut Context) -> Result<(), Refusal> {
        if let Some(pace) = &ctx.pace {
            pace.pulse().moved();
        }
        if ctx.body_limit == 0 {
            return Ok(());
        }
        ctx.body_received = ctx.body_received.saturating_add(bytes as u64);
        if ctx.body_received > ctx.body_limit {
            return Err(Refusal::BodyTooLarge(ctx.body_limit));
        }
        Ok(())
    }

    /// Chooses an upstream that this request has not failed at, and keeps the choice. Where all
    /// have as much to do as they may, the request waits in line.
    ///
    /// # Errors
    /// [`Refusal::NoUpstream`], [`Refusal::QueueFull`] or [`Refusal::QueueTimeout`].
    pub async fn pick(&self, ctx: &mut Context) -> Result<Arc<Upstream>, Refusal> {
        // An upstream that failed is not under way any more.
        let first = ctx.picked.take().is_none() && ctx.tried.is_empty();
        let target = ctx.target.as_ref().ok_or(Refusal::Internal)?;
        let mut key = [0; 16];
        let ask = ask(ctx, &mut key);
        let picked = target.upstreams().acquire(&ask).await?;
        if first && let Some(circuit) = target.circuit() {
            self.activity.request(circuit, picked.session);
        }
        let upstream = Arc::clone(&picked.upstream);
        ctx.picked = Some(picked);
        if let Some(pace) = &ctx.pace {
            pace.pulse().moved();
        }
        if let Some(visit) = &mut ctx.visit {
            visit.leg.begin(Instant::now());
        }
        Ok(upstream)
    }

    /// The upstream chosen could not be connected to. True if another one may be tried, which is
    /// safe for any request since nothing has been sent.
    pub fn unreachable(&self, ctx: &mut Context, fault: Fault) -> bool {
        self.failed(ctx, fault, false)
    }

    /// The upstream chosen failed before anything of its answer came; `sent` if something of the
    /// request may have reached it. True if another one may be tried: it is safe, there is one,
    /// and the budget of retries grants it.
    pub fn failed(&self, ctx: &mut Context, fault: Fault, sent: bool) -> bool {
        let kind = fault.kind();
        if let Some(picked) = &ctx.picked {
            self.prober.report(&picked.upstream, fault);
            picked.upstream.ended(upstream::Outcome::Failed);
            ctx.faults.push(kind);
            ctx.tried.push(Arc::clone(&picked.upstream));
        }
        self.may_try_another(ctx, sent)
    }

    /// Why a request was stopped by a time-out, if it was. An app that does not begin its answer
    /// is at fault.
    pub fn timed_out(&self, ctx: &Context) -> Option<Refusal> {
        let which = ctx.pace.as_ref()?.fired()?;
        if let (TimeOut::FirstByte, Some(picked)) = (which, &ctx.picked) {
            self.prober
                .report(&picked.upstream, Fault::FirstByteTimeout);
        }
        Some(Refusal::TimedOut(which))
    }

    /// The upstream chosen broke off, and the request is over. Counts against it only where there
    /// is another one: an app that is all there is serves nobody better from out of service.
    pub fn broke(&self, ctx: &Context) {
        let several = ctx
            .target
            .as_ref()
            .is_some_and(|target| target.upstreams().all().nth(1).is_some());
        if several && let Some(picked) = &ctx.picked {
            self.prober.report(&picked.upstream, Fault::Broke);
        }
    }

    fn may_try_another(&self, ctx: &Context, sent: bool) -> bool {
        let visit = ctx.visit.as_deref();
        let attempts = visit.map_or(MAX_ATTEMPTS, |visit| visit.route.attempts);
        ctx.tried.len() < attempts
            && may_retry(&ctx.method, sent, false)
            && ctx
                .target
                .as_ref()
                .is_some_and(|target| target.upstreams().grants_retry(&ctx.tried))
    }

    /// The upstream chosen has answered with this status. True if the answer should be thrown
    /// away and another upstream tried; never where the request is not `replayable`.
    pub fn answered(&self, ctx: &mut Context, status: u16, replayable: bool) -> bool {
        let Some(picked) = &ctx.picked else {
            return false;
        };
        picked.upstream.ended(upstream::Outcome::Answered(status));
        if let Some(visit) = &mut ctx.visit {
            visit.leg.answered(status);
        }
        let visit = ctx.visit.as_deref();
        if !replayable || !visit.is_some_and(|visit| visit.route.retry_status.contains(&status)) {
            return false;
        }
        ctx.tried.push(Arc::clone(&picked.upstream));
        ctx.faults.push("status");
        let another = self.may_try_another(ctx, true);
        if !another {
            // The answer stands: it is not a failure of the attempt.
            ctx.tried.pop();
            ctx.faults.pop();
        }
        another
    }

    /// There is a connection to the upstream chosen.
    pub fn connected(&self, ctx: &Context) {
        if let Some(picked) = &ctx.picked {
            picked.upstream.health.connected();
        }
    }

    /// The connection to it has carried requests before.
    pub fn reused(&self, ctx: &mut Context) {
        if let Some(visit) = &mut ctx.visit {
            visit.leg.reused = true;
        }
    }

    /// Writes what the app is told into the head it gets, and takes out what it must not see.
    ///
    /// # Errors
    /// [`Refusal::Internal`] if the stages have not run.
    pub fn inject(
        &self,
        head: &Head<'_>,
        ctx: &mut Context,
        sink: &mut dyn HeaderSink,
    ) -> Result<(), Refusal> {
        let id = ctx.id();
        let (Some(client), Some(target)) = (ctx.client, ctx.target.as_ref()) else {
            return Err(Refusal::Internal);
        };
        match target {
            Target::Circuit(circuit) => self.stages.inject(head, &client, circuit, &id, sink),
            Target::Service(_) => self.inject_for_service(head, &client, ctx, sink),
            Target::Tunnel(lent) => {
                let admission = ctx.admission.unwrap_or(Admission::Open);
                self.stages.inject_forwarded(head, &client, &id, sink);
                let prefix = format!("{}{}", path::TRAFFIC, lent.id);
                sink.set("x-forwarded-prefix", &prefix);
                strip(admission, sink);
            }
        }
        Ok(())
    }

    /// The app has answered: writes what the client is told into the answer's head.
    pub fn dress(&self, ctx: &mut Context, sink: &mut dyn HeaderSink) {
        ctx.first_byte.get_or_insert_with(|| ctx.started.elapsed());
        if let Some(pace) = &ctx.pace {
            pace.pulse().answered();
        }
        if let Some(picked) = &ctx.picked {
            picked.upstream.health.answered();
        }
        self.watch_events(ctx, sink);
        let id = ctx.id();
        match &self.entrance {
            Entrance::Circuits => self.stages.dress(&id, sink),
            Entrance::Gateway(_) => {
                let kind = sink.get("content-type").unwrap_or_default();
                if kind.starts_with(b"text/event-stream")
                    && let Some(picked) = &mut ctx.picked
                {
                    picked.streams();
                }
                sink.set(request_id::HEADER, id.as_str());
                self.dress_of_service(ctx, sink);
            }
        }
    }

    /// A stream of events is counted while it is open, and what a model says in it.
    fn watch_events(&self, ctx: &mut Context, answer: &dyn HeaderSink) {
        const EVENTS: &[u8] = b"text/event-stream";
        let kind = answer.get("content-type").unwrap_or_default();
        let kind = kind.get(..EVENTS.len()).unwrap_or_default();
        if !kind.eq_ignore_ascii_case(EVENTS) {
            return;
        }
        ctx.events = Some(Metrics::events_opened(&self.metrics));
        if let Some(live) = ctx.target.as_ref().and_then(Target::circuit)
            && live.circuit.app_mode == AppMode::Inference
        {
            ctx.tokens = Some(Tokens::new(&live.tally, ctx.started));
        }
    }

    /// A piece of an answer flows. A long answer is use for as long as it does
    /// (contract/pitfalls.md A27).
    pub fn flows(&self, ctx: &mut Context) {
        if let Some(pace) = &ctx.pace {
            pace.pulse().moved();
        }
        if ctx.marked.elapsed() >= MARK_PERIOD
            && let Some(circuit) = ctx.target.as_ref().and_then(Target::circuit)
            && let Some(picked) = &ctx.picked
        {
            self.activity.stream_alive(circuit, picked.session);
            ctx.marked = Instant::now();
        }
    }
}

/// What the choice of an upstream may know of a request.
pub fn ask<'a>(ctx: &'a Context, room: &'a mut [u8; 16]) -> Ask<'a> {
    let visit = ctx.visit.as_deref();
    let own_key = visit.and_then(|visit| visit.hash_key.as_deref());
    Ask {
        tried: &ctx.tried,
        key: own_key.unwrap_or_else(|| client_key(ctx, room)),
        prefer: visit.and_then(|visit| visit.preferred.as_ref()),
        streams: false,
    }
}

/// What stays the same for a client: its address.
fn client_key<'a>(ctx: &Context, room: &'a mut [u8; 16]) -> &'a [u8] {
    match ctx.client.map(|client| client.address.ip()) {
        Some(IpAddr::V4(address)) => {
            room[..4].copy_from_slice(&address.octets());
            &room[..4]
        }
        Some(IpAddr::V6(address)) => {
            *room = address.octets();
            room
        }
        None => &[],
    }
}

/// A method as text, without a copy where it is one of those that are met.
fn known_method(method: &str) -> Cow<'static, str> {
    const KNOWN: [&str; 7] = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"];
    match KNOWN.into_iter().find(|known| *known == method) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(method.to_owned()),
    }
}

/// Unix seconds.
fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
