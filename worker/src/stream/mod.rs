//! Connections that are carried as streams of bytes: upgraded WebSockets and TCP circuits.
//!
//! A stream is timed out only where somebody asks for it; it ends when its ends do, or when its
//! circuit closes. This room
//! knows sockets and circuits, not who may use them: `proxy` and `frontend` have decided that.

mod copy;
mod frames;
mod idle;
#[cfg(target_os = "linux")]
mod kernel;
mod marks;
pub mod tcp;
pub mod websocket;

pub use copy::{Linger, Meter, splice};
pub use frames::Watch;
pub use idle::end_when_idle;
#[cfg(target_os = "linux")]
pub use kernel::splice_sockets;
pub use marks::mark_while;
