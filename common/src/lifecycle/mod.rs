//! Orderly life of a process: what is in flight, when to stop, and what the service manager is
//! told. Every program uses it the same way; it knows neither listeners nor protocols.

mod drain;
mod hangup;
mod systemd;

pub use drain::{Drain, InFlight, Outcome};
pub use hangup::{at_every_hangup, at_every_second_user_signal};
pub use systemd::Notify;
