//! Agents' calls that are refused, as the wire shows them.

use super::{BAD_REQUEST, CREDENTIALS, Kind, NOT_FOUND, UNAVAILABLE};
use crate::tunnel::TunnelError;

const FORBIDDEN: Kind = (
    403,
    "generic-forbidden",
    "Forbidden operation.",
    "agent_access_forbidden",
);
const CONFLICT: Kind = (
    409,
    "tunnel-conflict",
    "The name is taken.",
    "agent_request_conflict",
);

/// Status and words of a refusal.
pub(super) fn kind(error: &TunnelError) -> Kind {
    use TunnelError as E;
    match error {
        E::Token | E::Gateway => CREDENTIALS,
        E::NotAllowed(_) | E::Operators => FORBIDDEN,
        E::Held(_) | E::Present(_) | E::Differs(_) => CONFLICT,
        E::Full => UNAVAILABLE,
        E::Session | E::Request | E::Nothing => NOT_FOUND,
        E::Malformed(_) => BAD_REQUEST,
        E::TooLarge(_) => (413, "too-large", "Too large.", "agent_request_too-large"),
        E::Method(_) => (
            405,
            "method-not-allowed",
            "HTTP Method Not Allowed.",
            "agent_request_bad-request",
        ),
        E::Upgrade => (
            426,
            "upgrade-required",
            "Upgrade required.",
            "agent_request_bad-request",
        ),
        E::Pulls => (
            429,
            "too-many-requests",
            "Too many requests.",
            "agent_request_too-many",
        ),
    }
}
