//! `/v2/endpoints*`: the Manager's inference endpoints (contract/rest-coordinator.md §7).
//!
//! `bulk` and `single` hold the handlers, `read` the shapes of their requests. This room refuses to
//! decide anything about circuits: `circuits::Endpoints` does. `routes` lists the handlers.

pub(crate) mod bulk;
mod read;
pub(crate) mod single;

pub(crate) use single::moment;
