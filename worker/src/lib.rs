//! Patchbay's worker: the data plane that carries client traffic over circuits.

pub mod access_log;
pub mod admin;
pub mod conduct;
pub mod config;
pub mod context;
pub mod error;
pub mod frontend;
pub mod gateway;
pub mod handover;
pub mod metrics;
pub mod proxy;
pub mod setup;
pub mod stage;
pub mod stream;
pub mod sync;
pub mod table;
pub mod target;
pub mod upstream;
pub mod wiring;
