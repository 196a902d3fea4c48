//! Patchbay's worker: the data plane that carries client traffic over circuits.

pub mod config;
pub mod table;
pub mod upstream;
