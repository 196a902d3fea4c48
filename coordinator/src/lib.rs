//! Patchbay's coordinator: it registers workers, opens and closes circuits, and tells the workers.

pub mod api;
pub mod circuits;
pub mod collect;
pub mod config;
pub mod ctl;
mod lease;
pub mod listen;
pub mod publish;
pub mod registry;
pub mod services;
pub mod store;
mod supervise;
mod upkeep;
pub mod wiring;

#[cfg(test)]
mod test_vectors;
