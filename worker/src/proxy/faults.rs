//! Pingora's errors as refusals: whose fault it was, and what the client is told.

use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::{FailToProxy, Session};

use super::Proxy;
use crate::context::Context;
use crate::error::Refusal;
use crate::upstream::{Fault, tunnel_refusal};

const ANOTHER: &str = "another upstream is tried";

/// Ends a request with a refusal from inside a hook.
pub(super) fn refuse<T>(ctx: &mut Context, refusal: Refusal) -> Result<T> {
    ctx.refusal = Some(refusal);
    Error::e_explain(ErrorType::InternalError, "refused")
}

/// What a failure to connect says about the upstream.
pub(super) fn of_connect(error: &Error) -> Fault {
    match error.etype() {
        ErrorType::ConnectTimedout => Fault::ConnectTimeout,
        _ => Fault::Connect,
    }
}

/// What a failure after the connect says about the upstream; `None` if it was not its fault.
pub(super) fn of_exchange(error: &Error) -> Option<Fault> {
    (*error.esource() == ErrorSource::Upstream).then(|| match error.etype() {
        ErrorType::ReadTimedout => Fault::FirstByteTimeout,
        _ => Fault::Broke,
    })
}

/// Ends an attempt whose answer is thrown away.
pub(super) fn try_another() -> Box<Error> {
    let mut error = Error::new_up(ErrorType::Custom(ANOTHER));
    error.set_retry(true);
    error
}

/// Whether it was decided already that another upstream is tried.
pub(super) fn is_decided(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::Custom(name) if *name == ANOTHER)
}

/// What a failure is to the client; `None` if the client itself is gone.
fn classify(error: &Error) -> Option<Refusal> {
    use ErrorType as E;
    if let Some(refusal) = tunnel_refusal(error.etype()) {
        return Some(refusal);
    }
    match error.esource() {
        ErrorSource::Downstream => match error.etype() {
            E::InvalidHTTPHeader => Some(Refusal::BadRequest("the request is not valid HTTP")),
            _ => None,
        },
        ErrorSource::Upstream => Some(match error.etype() {
            E::ConnectTimedout => Refusal::UpstreamConnectTimeout,
            E::ConnectRefused
            | E::ConnectNoRoute
            | E::ConnectError
            | E::SocketError
            | E::BindError => Refusal::UpstreamConnect,
            E::ReadTimedout | E::WriteTimedout => Refusal::UpstreamTimeout,
            _ => Refusal::UpstreamBroke,
        }),
        ErrorSource::Internal | ErrorSource::Unset => Some(match error.etype() {
            E::ConnectTimedout => Refusal::UpstreamConnectTimeout,
            E::ConnectRefused | E::ConnectNoRoute | E::ConnectError => Refusal::UpstreamConnect,
            _ => Refusal::Internal,
        }),
    }
}

impl Proxy {
    /// Answers a request that failed on its way, as far as an answer can still be given; true if
    /// it was, as a whole.
    pub(super) async fn answer_failure(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> (FailToProxy, bool) {
        let refusal = ctx.refusal.clone();
        let refusal = refusal.or_else(|| self.conduct.timed_out(ctx));
        let refusal = refusal.or_else(|| classify(error));
        let mut status = 0;
        let mut whole = false;
        if let Some(refusal) = refusal {
            if refusal == Refusal::UpstreamBroke {
                self.conduct.broke(ctx);
            }
            status = crate::error::Problem::from(&refusal).status;
            if session.response_written().is_some() {
                // Too late for another answer: the connection is cut, so that nobody takes the
                // part that was sent for the whole.
                ctx.refusal = Some(refusal);
            } else {
                // Pingora closes the connection after a failure: the client has to know.
                session.set_keepalive(None);
                whole = self.refuse(session, ctx, refusal).await.is_ok();
                if !whole {
                    status = 0;
                }
            }
        }
        let fate = FailToProxy {
            error_code: status,
            can_reuse_downstream: false,
        };
        (fate, whole)
    }
}
