//! Other origins: preflights, and the headers on answers (contract/data-plane.md §5 and §7;
//! pitfalls.md A19, A20: an app's own word on CORS stands, and only real preflights pass without
//! a credential, to be answered here).

use super::{Head, HeaderLookup, HeaderSink};

/// A preflight to answer here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preflight {
    /// `Access-Control-Allow-Methods`.
    pub methods: String,
    /// `Access-Control-Allow-Headers`.
    pub headers: String,
}

/// The preflight in a request, if it is one (Fetch standard, CORS-preflight request).
pub(super) fn preflight(head: &Head<'_>) -> Option<Preflight> {
    if head.method != "OPTIONS" || head.headers.get("origin").is_none() {
        return None;
    }
    let text = |name| std::str::from_utf8(head.headers.get(name)?).ok();
    Some(Preflight {
        methods: text("access-control-request-method")?.to_owned(),
        headers: text("access-control-request-headers")
            .unwrap_or("authorization")
            .to_owned(),
    })
}

pub(super) fn answer(answer: &dyn HeaderLookup, overrides: bool, sink: &mut dyn HeaderSink) {
    let speaks_for_itself = answer.get("access-control-allow-origin").is_some();
    if speaks_for_itself && !overrides {
        return;
    }
    sink.set("access-control-allow-origin", "*");
    let mut allowed = Vec::new();
    answer.each("access-control-allow-headers", &mut |value| {
        if let Ok(text) = std::str::from_utf8(value) {
            allowed.push(text);
        }
    });
    let mut allowed = allowed.join(", ");
    let named = allowed
        .split(',')
        .any(|name| name.trim().eq_ignore_ascii_case("authorization"));
    if !named {
        if !allowed.is_empty() {
            allowed.push_str(", ");
        }
        allowed.push_str("authorization");
        sink.set("access-control-allow-headers", &allowed);
    }
    if answer.get("access-control-expose-headers").is_none() {
        sink.set("access-control-expose-headers", "x-backend-request-id");
    }
}
