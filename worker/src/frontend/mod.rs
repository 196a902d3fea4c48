//! Listeners: sockets in, connections out to whoever carries them.
//!
//! `accept` runs one loop per socket and hands each connection on, `port` and
//! `wildcard` know which sockets the worker's slots need. Loops of our own rather than Pingora's:
//! one port that is taken must not hold up the others, and ports come by the thousand
//! (pingora-notes.md). This room refuses to read requests.

mod accept;
mod carrier;
mod guard;
mod lent;
mod port;
mod socket;
mod wire;

pub use accept::{Acceptor, ConnectionGate};
pub use carrier::{Carry, Guarding, HttpCarrier, Speak, TcpCarrier};
pub use guard::{Control, Guarded};
pub use lent::TunnelCarrier;
pub use port::PortRange;
pub use socket::Socket;
pub use wire::Wire;
