//! A restart nobody notices: a new process takes over the listening sockets, and the old one
//! serves its open connections until they end.
//!
//! The old process waits at a Unix socket (`[server] handover`). A new one asks there before it
//! binds anything (`heir`), gets the sockets (`wire`), starts as always, and says when it
//! accepts. Only then does the old one stop accepting (`giver`): a successor that fails costs
//! nothing. `listeners` knows the sockets, `successor` starts a new process when a signal asks for
//! one. `wiring` calls this room; it refuses to know what is served on the sockets.

mod giver;
mod heir;
mod listeners;
mod successor;
#[cfg(test)]
mod tests;
mod wire;

pub use giver::Giver;
pub use heir::{HandoverError, Inherited, Predecessor};
pub use listeners::Listeners;
pub use successor::Successor;
