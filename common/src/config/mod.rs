//! Configuration: find the file, read it leniently where it is the incumbent's and strictly where
//! it is ours, and gather every mistake before anyone has to fix the first.
//!
//! `load` finds, reads and overlays; the sections both programs share are in `shared`; `secret`
//! and `units` are the types keys are made of. What each program does with it all is its own
//! `config.rs`.

mod load;
mod secret;
mod shared;
mod units;

#[cfg(test)]
mod tests;

pub use load::{ConfigError, Discovery, Loader, Mistake, Strictness, environment};
pub use secret::Secret;
pub use shared::{Logging, PermitHash, Redis, RedisAddress, Secrets};
pub use units::{ByteSize, HostPort, Seconds};
