//! An attempt at an upstream: which one is chosen, what its faults and answers mean, and whether
//! another one is tried.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::{Conduct, TimeOut};
use crate::context::{Context, MAX_ATTEMPTS};
use crate::error::Refusal;
use crate::upstream::{self, Ask, Fault, Upstream, may_retry};

impl Conduct {
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
