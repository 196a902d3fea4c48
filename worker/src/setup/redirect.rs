//! Where inside the app the browser is sent.

use std::fmt::Write as _;

/// The path asked for, as one that no browser can read as another origin: it begins with exactly
/// one slash, and what browsers treat like a slash, drop, or cannot put in a header is escaped.
/// Nothing asked for stays nothing.
pub(super) fn path(asked: &str) -> String {
    if asked.is_empty() {
        return String::new();
    }
    let inner = asked.trim_start_matches(|c: char| {
        matches!(c, '/' | '\\') || c.is_whitespace() || c.is_control()
    });
    let mut path = String::with_capacity(inner.len() + 1);
    path.push('/');
    let mut in_query = false;
    for byte in inner.bytes() {
        in_query |= matches!(byte, b'?' | b'#');
        if byte.is_ascii_graphic() && (byte != b'\\' || in_query) {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn keeps_what_is_asked_for() {
        for same in ["/lab?x=1&y=%20#z", "/a//b", "/?next=//x", "/http://x"] {
            assert_eq!(path(same), same);
        }
        assert_eq!(path("lab"), "/lab");
        assert_eq!(path("?x=1"), "/?x=1");
        assert_eq!(path(""), "");
    }

    #[test]
    fn never_leads_to_another_origin() {
        for (asked, expected) in [
            ("//evil.example/x", "/evil.example/x"),
            ("/\\evil.example", "/evil.example"),
            ("\\\\evil.example", "/evil.example"),
            ("/\t/evil.example", "/evil.example"),
            (" //evil.example", "/evil.example"),
            ("\u{1}//evil.example", "/evil.example"),
            ("/a\\b", "/a%5Cb"),
            ("/a\r\nSet-Cookie: x=1", "/a%0D%0ASet-Cookie:%20x=1"),
            ("/é", "/%C3%A9"),
        ] {
            assert_eq!(path(asked), expected, "{asked:?}");
        }
    }
}
