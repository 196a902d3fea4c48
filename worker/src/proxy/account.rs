//! A request's context as Pingora keeps it: accounted for even where Pingora drops the request
//! without a word, as it does with a stream that is cut.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use patchbay_common::circuit::Protocol;
use pingora_core::{ErrorType, OrErr as _, Result};

use super::grpc_web::Bridge;
use crate::conduct::{Conduct, Outcome};
use crate::context::Context;
use crate::gateway::encoder::Encoder;

/// A context that is reported once.
pub struct Account {
    context: Context,
    conduct: Arc<Conduct>,
    reported: bool,
    /// Between gRPC-Web and gRPC.
    pub(super) bridge: Bridge,
    /// Compresses its answer.
    pub(super) encoder: Option<Encoder>,
    /// A failure was answered, and Pingora is about to drop the connection.
    pub(super) hears_out: bool,
}

impl Account {
    pub(super) fn open(conduct: &Arc<Conduct>) -> Self {
        Self {
            context: Context::new(),
            conduct: Arc::clone(conduct),
            reported: false,
            bridge: Bridge::None,
            encoder: None,
            hears_out: false,
        }
    }

    /// Whether the app is spoken to in HTTP/2.
    pub(super) fn speaks_http2(&self) -> bool {
        let target = self.context.target.as_ref();
        target.is_some_and(|target| matches!(target.protocol(), Protocol::Grpc | Protocol::H2))
    }

    /// Compresses a piece of the answer's body, where it is to be compressed.
    pub(super) fn compress(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<()> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(());
        };
        let piece = body.take().unwrap_or_default();
        let coded = encoder.push(&piece, end);
        let coded = coded.or_err(ErrorType::InternalError, "the body cannot be compressed")?;
        *body = (!coded.is_empty()).then_some(coded);
        Ok(())
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
