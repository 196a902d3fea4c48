//! Where a circuit's requests may go: the choice among its routes, what is known of their health,
//! and how they are dialled. The table builds a set per circuit, `proxy` and `stream` pick from
//! it and report how it went. This room refuses to know requests and events.

mod address;
mod dial;
mod health;
mod peer;
mod set;
#[cfg(test)]
mod tests;

pub use dial::{dial, tunnel_refusal};
pub use health::{Health, Prober};
pub use peer::PeerTemplate;
pub use set::{Picked, Upstream, UpstreamSet};
