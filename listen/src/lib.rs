//! What coordinator and worker have in common where they listen: binding a socket, making an
//! accepted connection a Pingora stream, and TLS with certificates that are chosen by name and
//! read anew while connections go on.
//!
//! It refuses to accept connections and to know what is spoken over them: each program runs the
//! loops it needs.

pub mod proxy_protocol;
pub mod tls;

mod socket;

pub use socket::{ListenError, bind, prepare};
