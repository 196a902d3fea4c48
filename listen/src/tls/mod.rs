//! TLS of listeners: what the operator asks for (`settings`), certificates chosen by the name a
//! client asks for (`certificates`), and their exchange while connections go on (`live`).
//!
//! A file that cannot be used is refused with a word on what is wrong with it; where an older one
//! is in use, that stays in use. This room refuses to write files and to fetch certificates.

mod certificates;
mod live;
mod settings;

pub use certificates::{Expiry, TlsError, TlsErrors};
pub use live::{Live, Purpose};
pub use settings::{CertificateFiles, ClientCertificates, Incumbent, Plan, Version, examine, read};
