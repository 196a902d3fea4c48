//! The gateway: services reached by host and path, behind the same engine as circuits.
pub mod chain;
pub mod refusal;
pub mod router;
