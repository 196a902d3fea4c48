//! What a client of the gateway is told. Its services are no kernels, so it has words of its own.

use patchbay_common::request_id::RequestId;

use super::{INTERNAL, Kind, Problem, Refusal};
use crate::gateway::refusal::GatewayRefusal;

const UNAVAILABLE: Kind = (
    503,
    "gateway/service-unavailable",
    "Service unavailable.",
    "gateway_access_unreachable",
);
/// Its status is the operator's choice.
const TIMEOUT: Kind = (
    408,
    "gateway/service-timeout",
    "The service did not answer in time.",
    "gateway_access_timeout",
);
const BROKE: Kind = (
    502,
    "gateway/service-broke-off",
    "The service broke off.",
    "gateway_access_broken",
);

pub(super) fn kind(refusal: &GatewayRefusal) -> Kind {
    use GatewayRefusal as G;
    match refusal {
        G::NoRoute => (
            404,
            "gateway/no-route",
            "No such route.",
            "gateway_route_not-found",
        ),
        G::Path(_) => (
            400,
            "gateway/path",
            "Bad request.",
            "gateway_request_bad-path",
        ),
        G::Unauthenticated { .. } => (
            401,
            "gateway/unauthenticated",
            "Authentication is required.",
            "gateway_auth_unauthorized",
        ),
        G::Permission(_) => (
            403,
            "gateway/forbidden",
            "Not permitted.",
            "gateway_auth_forbidden",
        ),
        G::Address => (
            403,
            "gateway/address-not-allowed",
            "Client address not allowed.",
            "gateway_access_forbidden",
        ),
        G::Origin => (
            403,
            "gateway/origin-not-allowed",
            "Origin not allowed.",
            "gateway_access_forbidden",
        ),
        G::TooMany { .. } => (
            429,
            "gateway/too-many-requests",
            "Too many requests.",
            "gateway_access_limited",
        ),
        G::Unchecked => (
            503,
            "gateway/authentication-unavailable",
            "Credentials cannot be checked.",
            "gateway_auth_unavailable",
        ),
        G::Panic => INTERNAL,
    }
}

impl Problem {
    /// A refusal as the gateway shows it: its services are no kernels, and a service that does
    /// not answer in time is told by a status of the operator's choice.
    pub fn at_gateway(refusal: &Refusal, timeout_status: u16, id: &RequestId) -> Self {
        use Refusal as R;
        let kind = match refusal {
            R::UpstreamConnect | R::UpstreamConnectTimeout | R::NoUpstream => Some((
                UNAVAILABLE,
                "No instance of the service can be reached at the moment",
            )),
            R::UpstreamTimeout => Some((
                (timeout_status, TIMEOUT.1, TIMEOUT.2, TIMEOUT.3),
                "The service did not answer in time",
            )),
            R::UpstreamBroke => Some((BROKE, "The service broke off before it answered")),
            _ => None,
        };
        let mut problem = Self::from(refusal);
        if let Some(((status, kind, title, error_code), msg)) = kind {
            problem = Self {
                status,
                kind,
                title,
                error_code,
                msg: msg.to_owned(),
                retry_after: (status == 503).then_some(2),
                request_id: None,
            };
        }
        problem.request_id = Some(id.as_str().to_owned());
        problem
    }
}
