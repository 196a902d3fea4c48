//! Where a circuit's requests may go: the choice among its routes, what is known of their health,
//! and how they are dialled. The table builds a set per circuit, `proxy` and `stream` pick from
//! it and report how it went. This room refuses to know requests and events.
//!
//! In short: [`UpstreamSet::pick`] (or [`UpstreamSet::acquire`], which waits in line) gives a
//! [`Picked`], which counts as under way until it is dropped; traffic tells
//! [`Health::connected`], [`Health::answered`] and [`Prober::report`] how it went;
//! [`UpstreamSet::states`] reads how the routes stand, [`Prober::changes`] says when to read anew.

mod address;
mod breaker;
mod check;
mod choice;
mod dial;
mod health;
mod peer;
mod prober;
mod queue;
mod retry;
mod set;
mod settings;
mod state;
#[cfg(test)]
mod tests;

pub use address::TUNNEL;
pub use breaker::{Breaker, Outcome};
pub use check::Check;
pub use dial::{Link, dial, tunnel_refusal};
pub use health::{Fault, Health};
pub use peer::PeerTemplate;
pub use prober::Prober;
pub use retry::{RetryBudget, may_retry};
pub use set::{Ask, Backend, Picked, Unavailable, Upstream, UpstreamSet};
pub use settings::{Policy, Settings};
pub use state::RouteState;
