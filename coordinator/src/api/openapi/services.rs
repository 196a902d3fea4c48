//! The operations on services of the gateway.

use super::operation::{Answer, Operation, may};

const SERVICES: &str = "services";

const fn call(
    method: &'static str,
    path: &'static str,
    answer: Answer,
    summary: &'static str,
) -> Operation {
    Operation::new(method, path, SERVICES, answer, summary)
}

pub(super) const SERVICE_CALLS: &[Operation] = &[
    call(
        "get",
        "/api/services",
        Answer::Json("Services"),
        "All services of the gateway, those put and those found in labels of containers",
    ),
    call(
        "get",
        "/api/services/{name}",
        Answer::Json("Service"),
        "The service of a name that is in force",
    ),
    call(
        "put",
        "/api/services/{name}",
        Answer::Json("Service"),
        "Put a service and the routes to it, or replace them",
    )
    .body("ServiceDefinition")
    .refusals(&[409]),
    call(
        "delete",
        "/api/services/{name}",
        Answer::Json("Success"),
        "Take a service away that was put",
    )
    .refusals(&[409]),
    call(
        "get",
        "/api/services/_/events",
        Answer::Text(
            "text/event-stream",
            "`hello`, then every change as `service`",
        ),
        "Changes of services as they come",
    )
    .query(&[may("after", "count", "the generation to go on from")])
    .refusals(&[503]),
    call(
        "get",
        "/api/services/_/audit",
        Answer::Json("ServiceAudit"),
        "What became of services, the newest first",
    )
    .query(&[
        may("service", "filled", "only of this name"),
        may("since", "time", "not earlier"),
        may("until", "time", "earlier"),
        may("limit", "count", "rows on a page, at most 1000"),
        may("cursor", "text", "the `next` of the page before"),
    ]),
];
