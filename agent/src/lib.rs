//! Patchbay's tunnel client: it dials out to a gateway and lends services of its own machine.
//!
//! `control` makes the control calls, `session` keeps the agent registered and connected, `carry`
//! splices streams of the multiplexed connection with local services, `knock` keeps their queues from
//! running over, `poll` answers requests by
//! long polling where nothing better gets through, `gauge` counts. The agent refuses to connect
//! anywhere but to its gateway and to the targets it was configured with.

pub mod arguments;
pub mod backoff;
pub mod carry;
pub mod config;
pub mod control;
pub mod gauge;
mod knock;
pub mod poll;
pub mod session;
pub mod tunnel;
pub mod wiring;
