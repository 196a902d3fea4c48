//! The request id that ties a request's traces together from edge to app
//! (contract/request-id.md §3).

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// Header the id is accepted from first, sent upstream with, and echoed under.
pub const HEADER: &str = "x-backend-request-id";
/// The older spelling that Backend.AI's programs use; accepted second, echoed as well.
pub const LEGACY_HEADER: &str = "x-backendai-requestid";
/// Longest id accepted, in bytes.
pub const MAX_LENGTH: usize = 128;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// An opaque id of 1 to 128 characters of `[A-Za-z0-9._:-]`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// A fresh id: a version 4 UUID.
    pub fn generate() -> Self {
        let mut buffer = [0u8; uuid::fmt::Hyphenated::LENGTH];
        let text: &str = Uuid::new_v4().hyphenated().encode_lower(&mut buffer);
        Self(Arc::from(text))
    }

    /// The given text as an id, if it is well formed.
    pub fn parse(text: &str) -> Option<Self> {
        is_valid(text.as_bytes()).then(|| Self(Arc::from(text)))
    }

    /// The id of a request: what its headers offer, or a fresh one.
    ///
    /// `lookup` answers with a header's value by lower-case name.
    pub fn accept<'a>(lookup: impl Fn(&str) -> Option<&'a [u8]>) -> Accepted {
        let mut refused = false;
        for name in [HEADER, LEGACY_HEADER] {
            let Some(value) = lookup(name) else { continue };
            if is_valid(value)
                && let Ok(text) = std::str::from_utf8(value)
            {
                let id = Self(Arc::from(text));
                return Accepted { id, refused };
            }
            refused = true;
        }
        Accepted {
            id: Self::generate(),
            refused,
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id for one WebSocket message, for logs only: `{id}-msg-{8 hex}`.
    pub fn message_id(&self) -> String {
        format!("{}-msg-{:08x}", self.0, Uuid::new_v4().as_fields().0)
    }
}

/// What [`RequestId::accept`] decided.
pub struct Accepted {
    /// The request's id.
    pub id: RequestId,
    /// The client offered an id that is not well formed; the caller says so in its log.
    pub refused: bool,
}

fn is_valid(text: &[u8]) -> bool {
    (1..=MAX_LENGTH).contains(&text.len())
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(byte))
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs `future` with the id bound: every log line written inside carries it.
pub async fn scope<F: Future>(id: RequestId, future: F) -> F::Output {
    CURRENT.scope(id, future).await
}

/// The id bound to the running task, if any.
pub fn current() -> Option<RequestId> {
    CURRENT.try_with(Clone::clone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(headers: &[(&str, &str)]) -> Accepted {
        RequestId::accept(|name| {
            headers
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.as_bytes())
        })
    }

    #[test]
    fn prefers_the_new_header_and_falls_back_to_the_old() {
        let both = accept(&[(LEGACY_HEADER, "old"), (HEADER, "new")]);
        assert_eq!(both.id.as_str(), "new");
        let old = accept(&[(LEGACY_HEADER, "old"), (HEADER, "")]);
        assert_eq!(old.id.as_str(), "old");
        assert!(old.refused);
    }

    #[test]
    fn refuses_what_could_forge_a_log_line() {
        for bad in ["a b", "a\nb", "é", "", &"x".repeat(129)] {
            let accepted = accept(&[(HEADER, bad)]);
            assert_ne!(accepted.id.as_str(), bad);
            assert!(accepted.refused, "{bad:?}");
            assert_eq!(accepted.id.as_str().len(), 36);
        }
        assert!(RequestId::parse(&"x".repeat(128)).is_some());
    }

    #[test]
    fn message_ids_extend_the_session_id() {
        let id = RequestId::parse("abc").unwrap();
        let message = id.message_id();
        let suffix = message.strip_prefix("abc-msg-").unwrap();
        assert_eq!(suffix.len(), 8);
        assert!(suffix.bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[tokio::test]
    async fn is_bound_inside_its_scope_only() {
        let id = RequestId::generate();
        let seen = scope(id.clone(), async { current() }).await;
        assert_eq!(seen, Some(id));
        assert_eq!(current(), None);
    }
}
