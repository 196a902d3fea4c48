//! Operations of gateways that hold tunnels.

use super::operation::{Answer, Operation, may};

const TAG: &str = "workers";

/// What workers tell and hear of tunnels.
pub(super) const CALLS: &[Operation] = &[
    Operation::new(
        "post",
        "/api/worker/{id}/tunnels",
        TAG,
        Answer::Json("TunnelsSettled"),
        "What a node (X-Patchbay-Node) holds of tunnels, in place of what it told before",
    )
    .body("TunnelClaim"),
    Operation::new(
        "get",
        "/api/tunnels",
        TAG,
        Answer::Json("TunnelHoldings"),
        "Who holds which tunnel, at which gateway",
    )
    .query(&[
        may("after", "count", "wait while this is the generation"),
        may("wait", "count", "seconds to wait, 30 at most"),
    ]),
];
