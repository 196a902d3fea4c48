//! What a connection speaks, and how that shows.

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// HTTP/1: heads and bodies in turn.
    Http1,
    /// HTTP/2: guarded until it is open, then by Pingora.
    Http2,
}

/// The client's preface of HTTP/2 (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Wire {
    /// Bytes that tell what a connection speaks: no method of HTTP/1 begins like the preface.
    pub(super) const ENOUGH: usize = 4;

    /// What a connection speaks that begins so; `None` if that is too little to tell.
    pub fn of(begun: &[u8]) -> Option<Self> {
        let first = &begun[..begun.len().min(Self::ENOUGH)];
        match PREFACE.starts_with(first) {
            false => Some(Self::Http1),
            true if first.len() == Self::ENOUGH => Some(Self::Http2),
            true => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bytes_tell() {
        for (begun, wire) in [
            ("", None),
            ("PRI", None),
            ("P", None),
            ("PRI ", Some(Wire::Http2)),
            ("PRI * HTTP/2.0\r\n", Some(Wire::Http2)),
            ("PO", Some(Wire::Http1)),
            ("GET / HTTP/1.1\r\n", Some(Wire::Http1)),
            ("PRI/", Some(Wire::Http1)),
        ] {
            assert_eq!(Wire::of(begun.as_bytes()), wire, "{begun:?}");
        }
    }
}
