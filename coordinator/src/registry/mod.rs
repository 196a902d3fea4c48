//! Which workers there are and which of them live.
//!
//! `join` takes in registrations, heartbeats and good-byes; `liveness` declares lost who stopped
//! sending them; `usage` reads what workers note of their circuits' use; `condition` puts together
//! what their nodes say of routes. This room refuses to touch circuits: what becomes of those of a
//! lost worker `circuits` decides. `api` calls `join`; `wiring` runs `liveness`.

mod condition;
mod join;
mod liveness;
mod usage;

pub use condition::{Condition, OnNode, Picture, RouteCondition, Tally, overall};
pub use join::{JoinError, Registry};
pub use liveness::watch_over;
pub(crate) use usage::seconds;
pub use usage::{Marks, Usage};
