//! The operations under the names of the coordinator's own document.

use super::{Answer, Operation, may, must};

const DONE: Answer = Answer::Json("Success");
const WORKERS: &str = "workers";
const CIRCUITS: &str = "circuits";

/// `/workers` and `/routes`.
pub(super) const OWN_CALLS: &[Operation] = &[
    Operation::new(
        "get",
        "/workers",
        WORKERS,
        Answer::Json("ListedWorkers"),
        "All workers, without their slots",
    ),
    Operation::new(
        "post",
        "/workers/register",
        WORKERS,
        Answer::Json("Joined"),
        "Join, and hear what is to be served",
    )
    .body("Registration"),
    Operation::new(
        "delete",
        "/workers/{id}",
        WORKERS,
        DONE,
        "Say good-bye; the worker's circuits go elsewhere or wait",
    ),
    Operation::new(
        "post",
        "/routes",
        CIRCUITS,
        Answer::Json("Mapping"),
        "Map a session's service; 201 if it is new",
    )
    .body("MappingOrder")
    .refusals(&[404, 409, 503]),
    Operation::new(
        "get",
        "/routes",
        CIRCUITS,
        Answer::Json("Mappings"),
        "Which session's service is reached where",
    )
    .query(&[
        may("session_id", "uuid", "only this session's"),
        may("service", "filled", "only this app or service"),
        may("worker", "filled", "only on this worker, by key or name"),
        may("limit", "count", "routes on a page, at most 1000"),
        may("cursor", "uuid", "the `next` of the page before"),
    ])
    .refusals(&[404]),
    Operation::new(
        "delete",
        "/routes",
        CIRCUITS,
        Answer::Json("SessionEnded"),
        "A session has ended, and all there is of it",
    )
    .query(&[must("session_id", "uuid", "the session")]),
    Operation::new(
        "get",
        "/routes/{id}",
        CIRCUITS,
        Answer::Json("Mapping"),
        "Where one service is reached",
    ),
    Operation::new(
        "put",
        "/routes/{id}",
        CIRCUITS,
        Answer::Json("Mapping"),
        "The session's kernel has moved",
    )
    .body("KernelAddress")
    .refusals(&[409]),
    Operation::new(
        "delete",
        "/routes/{id}",
        CIRCUITS,
        DONE,
        "Close a session's service",
    ),
];
