//! The end of a request: one line in the access log, and the counts.

use super::Conduct;
use crate::access_log::Line;
use crate::context::Context;
use crate::error::Refusal;
use crate::metrics::RequestFacts;
use crate::stage::Credential;
use crate::target::Target;

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
        self.metrics.request_finished(&RequestFacts {
            status,
            bytes_in,
            bytes_out,
            duration,
            first_byte: ctx.first_byte,
            refusal: ctx.refusal.as_ref(),
            client_gone: outcome.client_gone,
            spliced: ctx.spliced.is_some(),
        });
        if let Some(visit) = &ctx.visit {
            let counts = &visit.route.counts;
            counts.ended(status, duration, bytes_in, bytes_out);
        }
        if !self.access_log.is_enabled() {
            return;
        }
        let cut = outcome.failure.is_some()
            && ctx
                .target
                .as_ref()
                .is_some_and(|target| target.closed().is_cancelled());
        if cut {
            ctx.refusal = Some(Refusal::CircuitClosed);
        }
        let id = ctx.id();
        let refusal = ctx.refusal.as_ref().map(ToString::to_string);
        let visit = ctx.visit.as_deref();
        let service = visit.map(|visit| visit.route.action.service());
        let circuit = ctx.target.as_ref().and_then(Target::circuit);
        self.access_log.write(&Line {
            kind: if ctx.spliced.is_some() {
                "websocket"
            } else {
                "http"
            },
            request_id: id.as_str(),
            origin_request_id: circuit.and_then(|c| c.circuit.origin_request_id.as_deref()),
            client: ctx.client_address(),
            method: &ctx.method,
            path: &ctx.path,
            circuit: circuit.map(|c| c.id_text.as_str()),
            app: circuit.and_then(|c| c.circuit.app.as_deref()),
            gateway_route: visit.map(|visit| &*visit.route.name),
            service: service.filter(|name| !name.is_empty()),
            subject: visit.and_then(|visit| visit.passage.subject.as_deref()),
            credential: ctx
                .credential
                .map(Credential::as_str)
                .or_else(|| visit?.passage.credential),
            route: ctx
                .picked
                .as_ref()
                .map(|picked| picked.upstream.label.as_str()),
            status,
            bytes_in,
            bytes_out,
            duration,
            first_byte: ctx.first_byte,
            retries: ctx.tried.len(),
            end: ctx.spliced.map(|spliced| spliced.end.as_str()),
            error: refusal.as_deref().or(outcome.failure),
        });
    }
}
