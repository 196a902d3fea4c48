//! Opening and closing circuits.
//!
//! An opening chooses a worker (`place`), commits the circuit (`store`), announces it (`publish`)
//! and answers when the worker serves it; where the worker stays silent the opening is undone.
//! `endpoints` does so for many circuits of model serving at once, and changes their routes.
//! `failover` moves the circuits of lost workers to where their addresses lead as well.
//! This room refuses to know HTTP and Redis, and to touch rows itself; `api` calls it.

mod announce;
mod close;
mod endpoints;
mod failover;
mod open;
mod place;
mod revoke;

pub use close::{CloseError, Closer};
pub use endpoints::{EndpointError, EndpointOpening, Endpoints};
pub use failover::FailOver;
pub use open::{Backing, OpenError, Opener, Opening, Source};
