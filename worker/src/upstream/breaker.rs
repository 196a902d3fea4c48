//! The hook for circuit breakers, which the gateway's services bring along.

use std::fmt;

/// How an exchange with an upstream went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with this status.
    Answered(u16),
    /// It failed.
    Failed,
}

/// Has a say, beside health, in whether an upstream may be used. Asked for every pick: answers
/// must be cheap.
pub trait Breaker: fmt::Debug + Send + Sync {
    /// Whether a request may be sent there now. True does not mean that one will be.
    fn admits(&self) -> bool;
    /// A request is sent there.
    fn began(&self);
    /// How a request went that was sent there. Requests of clients that went away are not told.
    fn ended(&self, outcome: Outcome);
}
