//! Patchbay's worker: the data plane that carries client traffic over circuits.

pub mod config;
pub mod error;
pub mod stage;
pub mod table;
pub mod upstream;
