//! What the worker's own API answers when it refuses.

use super::{CREDENTIALS, Problem};
use crate::admin::ApiError;
use crate::setup::SetupError;

impl From<&ApiError> for Problem {
    fn from(error: &ApiError) -> Self {
        let (status, kind, title, error_code) = match error {
            ApiError::Token => CREDENTIALS,
            ApiError::NoRoute | ApiError::NotRemembered => (
                404,
                "url-not-found",
                "Unknown URL path.",
                "agent_request_not-found",
            ),
            ApiError::Method(_) => (
                405,
                "method-not-allowed",
                "HTTP Method Not Allowed.",
                "agent_request_bad-request",
            ),
            ApiError::Forbidden => (
                403,
                "generic-forbidden",
                "Forbidden operation.",
                "agent_access_forbidden",
            ),
            ApiError::Preflight => (
                400,
                "generic-bad-request",
                "Bad request.",
                "agent_request_bad-request",
            ),
            ApiError::Body
            | ApiError::Setup(SetupError::NoToken | SetupError::Inference | SetupError::Protocol) => {
                (
                    400,
                    "invalid-api-params",
                    "Missing or invalid API parameters.",
                    "agent_request_invalid-parameters",
                )
            }
            ApiError::Setup(SetupError::Token(_) | SetupError::Revoked) => (
                401,
                "invalid-credentials",
                "Authentication credentials not valid.",
                "agent_auth_unauthorized",
            ),
            ApiError::Setup(SetupError::NoCircuit) => (
                404,
                "object-not-found",
                "E00002: No such worker:circuit.",
                "agent_read_not-found",
            ),
            ApiError::Setup(SetupError::Coordinator(_)) => (
                502,
                "appproxy/coordinator-connection-error",
                "E20014: Failed to communicate with coordinator.",
                "agent_access_unreachable",
            ),
        };
        Self {
            status,
            kind,
            title,
            error_code,
            msg: error.to_string(),
            retry_after: (status == 503).then_some(2),
            request_id: None,
        }
    }
}
