//! Patchbay's worker: the data plane that carries client traffic over circuits.

pub mod access_log;
pub mod config;
pub mod error;
pub mod stage;
pub mod sync;
pub mod table;
pub mod upstream;
