//! What Pingora knows of a request at its end.

use pingora_core::{Error, ErrorSource};
use pingora_proxy::Session;

use super::Proxy;
use crate::conduct::Outcome;
use crate::context::Context;

impl Proxy {
    pub(super) fn report(&self, session: &Session, error: Option<&Error>, ctx: &mut Context) {
        let downstream = session.as_downstream();
        let outcome = Outcome {
            status: session.response_written().map(|head| head.status.as_u16()),
            bytes_in: downstream.body_bytes_read() as u64,
            bytes_out: downstream.body_bytes_sent() as u64,
            client_gone: error.is_some_and(|error| *error.esource() == ErrorSource::Downstream),
            failure: error.map(|error| error.etype().as_str()),
        };
        self.conduct.report(&outcome, ctx);
    }
}
