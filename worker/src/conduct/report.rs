//! The end of a request: one line in the access log, the counts, and a record to explain it by.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Conduct;
use crate::access_log::Line;
use crate::context::Context;
use crate::error::Refusal;
use crate::explain::Record;
use crate::gateway::Visit;
use crate::gateway::counts::{Decision, Ended};
use crate::gateway::refusal::GatewayRefusal;
use crate::metrics::RequestFacts;
use crate::stage::Right;
use crate::target::Target;
use crate::tunnel::Admission;

/// What the log shows for a client that went away before it had its answer (nginx's number).
const CLIENT_GONE: u16 = 499;

/// What an engine knows of a request it has carried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome<'a> {
    /// Status sent to the client; `None` if no head was sent.
    pub status: Option<u16>,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// The client broke off.
    pub client_gone: bool,
    /// What went wrong, in the engine's words.
    pub failure: Option<&'a str>,
}

impl Conduct {
    /// Accounts for a request that has ended.
    pub fn report(&self, outcome: &Outcome<'_>, ctx: &mut Context) {
        let status = match (ctx.spliced, outcome.status) {
            (Some(_), _) => 101,
            (None, Some(status)) => status,
            (None, None) if outcome.client_gone => CLIENT_GONE,
            (None, None) => 0,
        };
        let (bytes_in, bytes_out) = match ctx.spliced {
            Some(spliced) => (spliced.sent, spliced.received),
            None => (outcome.bytes_in, outcome.bytes_out),
        };
        let duration = ctx.started.elapsed();
        let stopped = outcome.failure.and_then(|_| ctx.stopped());
        if let Some(late @ Refusal::TimedOut(_)) = &stopped {
            ctx.refusal.get_or_insert_with(|| late.clone());
        }
        self.metrics.request_finished(&RequestFacts {
            status,
            bytes_in,
            bytes_out,
            duration,
            first_byte: ctx.first_byte,
            refusal: ctx.refusal.as_ref(),
            client_gone: outcome.client_gone,
            spliced: ctx.spliced.is_some(),
            client: ctx.client.map(|client| client.address.ip()),
            kernel: ctx
                .first_byte
                .and_then(|_| Some(&*ctx.picked.as_ref()?.upstream.label)),
        });
        self.note_tunnel(status, (bytes_in, bytes_out), ctx);
        if let Some(visit) = &ctx.visit {
            visit.route.counts.ended(&Ended {
                status,
                duration,
                received: bytes_in,
                sent: bytes_out,
                decision: decision(visit, ctx.refusal.as_ref()),
                leg: visit.leg,
                retries: ctx.tried.len(),
            });
        }
        if stopped.is_some() {
            ctx.refusal = stopped;
        }
        if let Some(live) = ctx.target.as_ref().and_then(Target::circuit) {
            live.tally.add(status, bytes_in, bytes_out);
        }
        let account = Account {
            status,
            bytes_in,
            bytes_out,
            duration,
        };
        let failed = outcome.failure.is_some();
        if self.access_log.is_enabled() && self.sampling.wants(status, failed, duration) {
            self.log(outcome, &account, ctx);
        }
        if self.explain.is_enabled() {
            self.explain.leave(record(outcome, &account, ctx));
        }
    }

    fn log(&self, outcome: &Outcome<'_>, account: &Account, ctx: &mut Context) {
        let id = ctx.id();
        let refusal = ctx.refusal.as_ref().map(ToString::to_string);
        let visit = ctx.visit.as_deref();
        let service = visit.map(|visit| visit.route.action.service());
        let circuit = ctx.target.as_ref().and_then(Target::circuit);
        self.access_log.write(&Line {
            kind: kind(ctx),
            request_id: id.as_str(),
            origin_request_id: circuit.and_then(|c| c.circuit.origin_request_id.as_deref()),
            client: ctx.client_address(),
            method: &ctx.method,
            path: &ctx.path,
            circuit: circuit.map(|c| c.id_text.as_str()),
            app: circuit.and_then(|c| c.circuit.app.as_deref()),
            traceparent: ctx.trace.as_deref(),
            gateway_route: visit.map(|visit| &*visit.route.name),
            service: service.filter(|name| !name.is_empty()),
            subject: visit.and_then(|visit| visit.passage.subject.as_deref()),
            grant: ctx.right.as_ref().and_then(|right| right.grant.as_deref()),
            credential: ctx
                .right
                .as_ref()
                .map(Right::as_str)
                .or_else(|| visit?.passage.credential)
                .or_else(|| ctx.admission.map(Admission::as_str)),
            route: ctx.picked.as_ref().map(|picked| &*picked.upstream.label),
            status: account.status,
            bytes_in: account.bytes_in,
            bytes_out: account.bytes_out,
            duration: account.duration,
            first_byte: ctx.first_byte,
            upstream: visit.and_then(|visit| Some((visit.leg.status?, visit.leg.latency?))),
            connection: visit
                .filter(|visit| visit.leg.status.is_some())
                .map(|visit| if visit.leg.reused { "reused" } else { "new" }),
            retries: ctx.tried.len(),
            slow: self.sampling.is_slow(account.duration),
            end: ctx.spliced.map(|spliced| spliced.end.as_str()),
            error: refusal.as_deref().or(outcome.failure),
        });
    }
}

/// What the chain decided, where it had something to decide.
fn decision(visit: &Visit, refusal: Option<&Refusal>) -> Option<Decision> {
    use GatewayRefusal as G;
    let Some(Refusal::Gateway(refusal)) = refusal else {
        let known = visit.passage.credential.is_some();
        return known.then_some(Decision::Admitted);
    };
    match refusal {
        G::Unauthenticated { .. } => Some(Decision::Unauthenticated),
        G::Permission(_) | G::Address | G::Origin => Some(Decision::Forbidden),
        G::TooMany { .. } => Some(Decision::Limited),
        G::Unchecked => Some(Decision::Unchecked),
        G::NoRoute | G::Path(_) | G::Panic => None,
    }
}

/// What a request came to.
struct Account {
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    duration: Duration,
}

fn kind(ctx: &Context) -> &'static str {
    if ctx.spliced.is_some() {
        "websocket"
    } else {
        "http"
    }
}

/// What is remembered of a request. Takes its texts: nobody needs them after this.
fn record(outcome: &Outcome<'_>, account: &Account, ctx: &mut Context) -> Record {
    let id = ctx.id();
    let tried = ctx.tried.iter().map(|upstream| Arc::clone(&upstream.label));
    let error = ctx.refusal.as_ref().map(ToString::to_string);
    Record {
        id: Some(id),
        kind: kind(ctx),
        ended: Some(SystemTime::now()),
        client: ctx.client_address(),
        circuit: ctx
            .target
            .as_ref()
            .and_then(Target::circuit)
            .map(|live| live.circuit.id),
        credential: ctx.right.as_ref().map(Right::as_str),
        traceparent: ctx.trace.take(),
        grant: ctx.right.as_mut().and_then(|right| right.grant.take()),
        route: ctx
            .picked
            .as_ref()
            .map(|picked| (Arc::clone(&picked.upstream.label), picked.why)),
        tried: tried.zip(ctx.faults.iter().copied()).collect(),
        status: account.status,
        bytes_in: account.bytes_in,
        bytes_out: account.bytes_out,
        duration: account.duration,
        first_byte: ctx.first_byte,
        end: ctx.spliced.map(|spliced| spliced.end.as_str()),
        error: error.or_else(|| outcome.failure.map(str::to_owned)),
        method: std::mem::take(&mut ctx.method),
        path: std::mem::take(&mut ctx.path),
    }
}
