//! What agent and gateway say to each other: the names of tunnels, the JSON bodies of the control
//! calls (docs/TUNNELS.md), and the multiplexed connection. It knows neither who may register nor
//! what a stream is used for: the worker's `tunnel` and the agent do.

mod holding;
mod messages;
pub mod mux;
mod name;

pub use holding::{
    CLAIM_SECONDS, Claim, Holding, Holdings, MOST_HOLDINGS, Refused, RelayAddress, Settled, Told,
};
pub use messages::{
    AgentRequest, Dispatch, Granted, Heard, Limits, Offer, Pulled, Register, Registered, Respond,
    Transport, decode_header, encode_header,
};
pub use name::{AgentId, Kind, NameError, TunnelId};

/// Value of `Upgrade` that asks for the multiplexed connection.
pub const UPGRADE: &str = "patchbay-mux";

/// Paths of the control calls.
pub mod path {
    /// `POST`: begins a session.
    pub const REGISTER: &str = "/api/agent/register";
    /// `GET`: requests to answer.
    pub const PULL: &str = "/api/agent/pull";
    /// `POST`: the answer to one request.
    pub const RESPOND: &str = "/api/agent/respond";
    /// `POST`: keeps a session alive.
    pub const HEARTBEAT: &str = "/api/agent/heartbeat";
    /// `GET` with an upgrade: the multiplexed connection.
    pub const CONNECT: &str = "/api/agent/connect";
    /// `POST`: no new requests, please; the names stay held.
    pub const DRAIN: &str = "/api/agent/drain";
    /// `POST`: ends a session.
    pub const LEAVE: &str = "/api/agent/leave";
    /// What every control call begins with.
    pub const AGENT: &str = "/api/agent/";
    /// `GET` with an upgrade: another gateway's multiplexed connection.
    pub const RELAY: &str = "/api/relay/connect";
    /// `GET`: whether the gateway is up.
    pub const HEALTH: &str = "/api/health";
    /// `GET`: all tunnels, for operators.
    pub const TUNNELS: &str = "/api/tunnels";
    /// What traffic for tunnels begins with.
    pub const TRAFFIC: &str = "/t/";
}
