//! The trace a request belongs to (W3C Trace Context). The headers pass on as they came; here it is
//! only found what the log says.

use super::Head;

/// Length of version 00.
const LENGTH: usize = 55;

/// The request's `traceparent`, where it is well formed.
pub fn parent<'a>(head: &Head<'a>) -> Option<&'a str> {
    let text = std::str::from_utf8(head.headers.get("traceparent")?).ok()?;
    let mut parts = text.split('-');
    let hex = |part: &str, length: usize| {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        part.len() == length && part.bytes().all(digit)
    };
    let (version, trace) = (parts.next()?, parts.next()?);
    let (span, flags) = (parts.next()?, parts.next()?);
    let some = |id: &str| id.bytes().any(|byte| byte != b'0');
    let well_formed = hex(version, 2)
        && hex(trace, 32)
        && hex(span, 16)
        && hex(flags, 2)
        && version != "ff"
        && some(trace)
        && some(span);
    // Later versions may say more behind it.
    let whole = version != "00" || text.len() == LENGTH;
    (well_formed && whole).then(|| &text[..LENGTH])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::HeaderLookup;

    struct One<'a>(&'a str);

    impl HeaderLookup for One<'_> {
        fn get(&self, name: &str) -> Option<&[u8]> {
            (name == "traceparent").then_some(self.0.as_bytes())
        }

        fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
            if let Some(value) = self.get(name) {
                visit(value);
            }
        }
    }

    fn found(text: &str) -> Option<String> {
        let headers = One(text);
        let address = ([127, 0, 0, 1], 1).into();
        let head = Head {
            method: "GET",
            target: "/",
            authority: None,
            is_http11: true,
            headers: &headers,
            peer: address,
            local: address,
            tls: false,
        };
        parent(&head).map(str::to_owned)
    }

    #[test]
    fn only_what_is_well_formed_is_logged() {
        const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(found(GOOD).as_deref(), Some(GOOD));
        let later = format!("{}-more", GOOD.replacen("00", "01", 1));
        assert_eq!(found(&later), Some(later[..LENGTH].to_owned()));
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\"",
        ] {
            assert_eq!(found(bad), None, "{bad}");
        }
    }
}
