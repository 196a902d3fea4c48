//! Patchbay's tunnel client: it dials out to a gateway and lends services of its own machine.

pub mod arguments;
pub mod config;
pub mod tunnel;
