//! Other origins: preflights, and the headers on answers (contract/data-plane.md §5 and §7;
//! pitfalls.md A19, A20: an app's own word on CORS stands, and only real preflights pass without
//! a credential, to be answered here).

use patchbay_common::request_id;

use super::{Head, HeaderSink};

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

pub(super) fn dress(overrides: bool, answer: &mut dyn HeaderSink) {
    let speaks_for_itself = answer.get("access-control-allow-origin").is_some();
    if speaks_for_itself && !overrides {
        return;
    }
    answer.set("access-control-allow-origin", "*");
    if answer.get("access-control-allow-headers").is_none() {
        answer.set("access-control-allow-headers", "authorization");
    } else if let Some(extended) = with_authorization(answer) {
        answer.set("access-control-allow-headers", &extended);
    }
    if answer.get("access-control-expose-headers").is_none() {
        answer.set("access-control-expose-headers", request_id::HEADER);
    }
}

/// The headers the app allows and `authorization`; `None` if it allows that already.
fn with_authorization(answer: &dyn HeaderSink) -> Option<String> {
    let mut allowed = String::new();
    answer.each("access-control-allow-headers", &mut |value| {
        if let Ok(text) = std::str::from_utf8(value) {
            allowed.push_str(text);
            allowed.push_str(", ");
        }
    });
    let named = allowed
        .split(',')
        .any(|name| name.trim().eq_ignore_ascii_case("authorization"));
    (!named).then(|| allowed + "authorization")
}
