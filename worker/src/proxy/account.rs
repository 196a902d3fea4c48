//! A request's context as Pingora keeps it: accounted for even where Pingora drops the request
//! without a word, as it does with a stream that is cut.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use patchbay_common::circuit::Protocol;

use super::grpc_web::Bridge;
use crate::conduct::{Conduct, Outcome};
use crate::context::Context;

/// A context that is reported once.
pub struct Account {
    context: Context,
    conduct: Arc<Conduct>,
    reported: bool,
    /// Between gRPC-Web and gRPC.
    pub(super) bridge: Bridge,
}

impl Account {
    pub(super) fn open(conduct: &Arc<Conduct>) -> Self {
        Self {
            context: Context::new(),
            conduct: Arc::clone(conduct),
            reported: false,
            bridge: Bridge::None,
        }
    }

    /// Whether the app is spoken to in HTTP/2.
    pub(super) fn speaks_http2(&self) -> bool {
        let target = self.context.target.as_ref();
        target.is_some_and(|target| matches!(target.protocol(), Protocol::Grpc | Protocol::H2))
    }

    /// The request has ended in order.
    pub(super) fn close(&mut self, outcome: &Outcome<'_>) {
        self.reported = true;
        self.conduct.report(outcome, &mut self.context);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Without a head there was no request.
        if !self.reported && self.context.in_flight.is_some() {
            self.close(&Outcome {
                failure: Some("the stream was cut"),
                ..Outcome::default()
            });
        }
    }
}

impl Deref for Account {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl DerefMut for Account {
    fn deref_mut(&mut self) -> &mut Context {
        &mut self.context
    }
}
