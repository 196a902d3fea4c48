//! Tunnels: agents behind NAT lend services, and here is where they are lent from
//! (docs/TUNNELS.md).
//!
//! `registry` knows the sessions of agents and the tunnels they hold, `tokens` who may hold what,
//! `calls` answers the agents' control calls, `queue` and `bridge` are the long poll, `attach`
//! the multiplexed connection, `line` a connection to a lent service, `visitor` who may use one,
//! `elsewhere` what is held at other gateways and `relay` the way there, `facts` what operators see.
//! `upstream` dials tunnels through `line`; `proxy` and `conduct` hand the calls in. This room
//! refuses to know engines and circuits.

mod attach;
mod bridge;
mod calls;
mod elsewhere;
mod facts;
mod line;
mod queue;
mod registry;
mod relay;
mod session;
mod settings;
mod tokens;
mod visitor;

#[cfg(test)]
mod tests;

pub use calls::{Call, Calls, Reply};
pub use facts::{Account, Recent};
pub use line::{OpenFailure, TunnelStream};
pub use registry::{Lent, Registry};
pub use session::Session;
pub use settings::{SECTION, Section, Settings, TcpPort};
pub use tokens::{Token, Tokens};
pub use visitor::{Admission, ENTER, Visitors, admit, strip};

use patchbay_common::tunnel::{AgentId, TunnelId};

/// Why an agent's call is refused. `error` knows the statuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// The token is not one of ours.
    #[error("the registration token is missing or not valid")]
    Token,
    /// The token does not stretch to this tunnel.
    #[error("the token does not allow tunnel `{0}`")]
    NotAllowed(TunnelId),
    /// Somebody else holds the name.
    #[error("tunnel `{0}` is held by another agent")]
    Held(TunnelId),
    /// The agent is connected already.
    #[error("agent `{0}` is connected already: give each agent a name of its own")]
    Present(AgentId),
    /// The tunnel's holders have to agree on what visitors show.
    #[error("tunnel `{0}` is held with another visitor token or another kind")]
    Differs(TunnelId),
    /// There are as many sessions as there may be.
    #[error("the gateway has as many agents as it takes")]
    Full,
    /// No such session.
    #[error("there is no such session: register again")]
    Session,
    /// No such request.
    #[error(
        "no request of that id waits for an answer: it was never dispatched, is answered, or took too long"
    )]
    Request,
    /// The call itself is wrong.
    #[error("{0}")]
    Malformed(String),
    /// The call is too long.
    #[error("the body is too large: at most {0} bytes")]
    TooLarge(usize),
    /// The path takes another method.
    #[error("this path takes {0}")]
    Method(&'static str),
    /// Only operators may see this.
    #[error("only operators may see this: their addresses are set as tunnels.operators")]
    Operators,
    /// Not a gateway that works with this one.
    #[error("this is for gateways of the same coordinator")]
    Gateway,
    /// Nothing is there.
    #[error("there is nothing at this path")]
    Nothing,
    /// The connection should have been upgraded.
    #[error("this path takes a connection to be upgraded to patchbay-mux")]
    Upgrade,
    /// Too many calls of this session are waiting.
    #[error("as many pulls of this session are waiting as may")]
    Pulls,
}
