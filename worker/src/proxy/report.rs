//! The end of a request: one line in the access log, and the counts.

use pingora_core::{Error, ErrorSource};
use pingora_proxy::Session;

use super::CircuitProxy;
use crate::access_log::Line;
use crate::context::Context;
use crate::error::Refusal;
use crate::metrics::RequestFacts;

/// What the log shows for a client that went away before it had its answer.
const CLIENT_GONE: u16 = 499;

impl CircuitProxy {
    pub(super) fn report(&self, session: &Session, error: Option<&Error>, ctx: &mut Context) {
        let id = ctx.id();
        let client_gone = error.is_some_and(|error| *error.esource() == ErrorSource::Downstream);
        let status = match (ctx.spliced, session.response_written()) {
            (Some(_), _) => 101,
            (None, Some(head)) => head.status.as_u16(),
            (None, None) if client_gone => CLIENT_GONE,
            (None, None) => 0,
        };
        let downstream = session.as_downstream();
        let (bytes_in, bytes_out) = match ctx.spliced {
            Some(spliced) => (spliced.sent, spliced.received),
            None => (
                downstream.body_bytes_read() as u64,
                downstream.body_bytes_sent() as u64,
            ),
        };
        let duration = ctx.started.elapsed();
        self.metrics.request_finished(&RequestFacts {
            status,
            bytes_in,
            bytes_out,
            duration,
            first_byte: ctx.first_byte,
            refusal: ctx.refusal.as_ref(),
            client_gone,
            spliced: ctx.spliced.is_some(),
        });
        if !self.access_log.is_enabled() {
            return;
        }
        let cut = error.is_some()
            && ctx
                .circuit
                .as_ref()
                .is_some_and(|c| c.closed.is_cancelled());
        if cut {
            ctx.refusal = Some(Refusal::CircuitClosed);
        }
        let refusal = ctx.refusal.as_ref().map(ToString::to_string);
        let failure = error.map(|error| error.etype().as_str());
        let circuit = ctx.circuit.as_deref();
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
            credential: ctx.credential.map(crate::stage::Credential::as_str),
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
            error: refusal.as_deref().or(failure),
        });
    }
}
