//! The table of operations: what each method of each path is for, asks for and answers.

use super::operation::{ADD, Access, Answer, Operation, Parameter, get, may, must, post};
use super::services::SERVICE_CALLS;

/// What an opener may say about the app.
const OPENING: &[Parameter] = &[
    must("token", "uuid", "what POST /v2/conf answered"),
    must("session_id", "uuid", "the token's session"),
    must("app", "filled", "the app's name"),
    must("protocol", "protocol", "what the app speaks"),
    may("envs", "text", "an object as JSON text; kept and shown"),
    may("args", "text", "kept and shown"),
    may("open_to_public", "flag", "no credential is asked"),
    may(
        "allowed_client_ips",
        "text",
        "addresses and networks, with commas between",
    ),
    may("redirect", "text", "path of the app to begin with"),
    may("no_reuse", "flag", "share no circuit"),
    may("port", "port", "this port and no other"),
    may("subdomain", "text", "this subdomain, if it is free"),
];
const ADDING: &[Parameter] = OPENING.split_at(2).1;

const DONE: Answer = Answer::Json("Success");
const SYSTEM: &str = "system";
const WORKERS: &str = "workers";
const CIRCUITS: &str = "circuits";
const OPENERS: &str = "opening";
const ENDPOINTS: &str = "endpoints";
const HEALTH: &str = "health";
const OWN: &str = "workers and routes";

const SYSTEM_CALLS: &[Operation] = &[
    get(
        "/status",
        SYSTEM,
        Answer::Json("Status"),
        "What the Manager asks first",
    )
    .access(Access::Open),
    get(
        "/health",
        SYSTEM,
        Answer::Json("Health"),
        "How the coordinator and its parts are",
    )
    .access(Access::Open),
    get(
        "/health/livez",
        SYSTEM,
        Answer::Json("Health"),
        "The process answers",
    )
    .access(Access::Open),
    get(
        "/health/readyz",
        SYSTEM,
        Answer::Json("Health"),
        "The process can do its work",
    )
    .access(Access::Open)
    .refusals(&[503]),
    get(
        "/metrics",
        SYSTEM,
        Answer::Text("text/plain", "Prometheus text"),
        "What is counted",
    )
    .access(Access::Networks),
    get(
        "/openapi.json",
        SYSTEM,
        Answer::Json("Document"),
        "This document",
    )
    .access(Access::Open),
    get(
        "/docs",
        SYSTEM,
        Answer::Text("text/html", "a page"),
        "This document, for people",
    )
    .access(Access::Open),
];

const HEALTH_CALLS: &[Operation] = &[
    get(
        "/health/status",
        HEALTH,
        Answer::Json("Fleet"),
        "The workers heard of lately",
    ),
    get(
        "/health/summary",
        HEALTH,
        Answer::Json("HealthSummary"),
        "Circuits counted by how their routes are",
    ),
    get(
        "/health/endpoints",
        HEALTH,
        Answer::Json("EndpointHealths"),
        "How the routes of endpoints are, page by page",
    )
    .query(&[
        may("limit", "count", "endpoints on a page, at most 1000"),
        may("cursor", "uuid", "the `next` of the page before"),
    ]),
    get(
        "/health/circuits/{circuit_id}",
        HEALTH,
        Answer::Json("CircuitHealth"),
        "How a circuit's routes are, on every node",
    )
    .refusals(&[400]),
];

const WORKER_CALLS: &[Operation] = &[
    get(
        "/api/worker",
        WORKERS,
        Answer::Json("Workers"),
        "All workers with their slots",
    ),
    Operation::new(
        "put",
        "/api/worker",
        WORKERS,
        Answer::Json("Worker"),
        "Register a worker, or tell of its present settings",
    )
    .body("Registration"),
    get(
        "/api/worker/{id}",
        WORKERS,
        Answer::Json("Worker"),
        "One worker with its slots",
    ),
    Operation::new(
        "patch",
        "/api/worker/{id}",
        WORKERS,
        Answer::Json("Worker"),
        "A sign of life",
    ),
    Operation::new("delete", "/api/worker/{id}", WORKERS, DONE, "A node leaves"),
    get(
        "/api/worker/{id}/circuits",
        WORKERS,
        Answer::Json("WorkerCircuits"),
        "A worker's circuits and the generation they add up to",
    ),
    get(
        "/api/worker/{id}/events",
        WORKERS,
        Answer::Text(
            "text/event-stream",
            "changes as server-sent events, without an end",
        ),
        "A worker's changes as they happen",
    )
    .refusals(&[503]),
    post(
        "/api/worker/{id}/acknowledgements",
        WORKERS,
        DONE,
        "The worker serves everything up to a generation",
    )
    .body("Acknowledgement"),
    post(
        "/api/worker/{id}/route-health",
        WORKERS,
        DONE,
        "What a node (X-Patchbay-Node) says of its routes, in place of what it said before",
    )
    .body("RouteReport"),
    post(
        "/api/worker/{id}/uses",
        WORKERS,
        DONE,
        "What a node (X-Patchbay-Node) without Redis tells of how circuits were used",
    )
    .body("UseReport"),
    get(
        "/v1/api/worker",
        WORKERS,
        Answer::Json("WorkersV1"),
        "All workers, as version 1",
    ),
];

const CIRCUIT_CALLS: &[Operation] = &[
    get(
        "/api/circuit/{id}",
        CIRCUITS,
        Answer::Json("Circuit"),
        "One circuit",
    )
    .query(&[may("health", "flag", "with how its routes are")]),
    Operation::new(
        "delete",
        "/api/circuit/{id}",
        CIRCUITS,
        DONE,
        "Close a circuit",
    ),
    get(
        "/api/circuit/{id}/statistics",
        CIRCUITS,
        Answer::Json("Statistics"),
        "One circuit and how it is used",
    ),
    Operation::new(
        "delete",
        "/api/circuit/_/bulk",
        CIRCUITS,
        DONE,
        "Close those that exist of these circuits",
    )
    .query(&[must("circuit_ids", "text", "UUIDs with commas between")]),
    get(
        "/api/slots",
        CIRCUITS,
        Answer::Json("Slots"),
        "Slots in use, or all",
    )
    .query(&[
        may("wsproxy_host", "text", "only those of this worker, by name"),
        may("in_use", "flag", "false: free ones too"),
    ])
    .refusals(&[404]),
    get(
        "/v1/api/slots",
        CIRCUITS,
        Answer::Json("SlotsV1"),
        "Slots in use, as version 1",
    ),
    get(
        "/api/audit",
        CIRCUITS,
        Answer::Json("AuditPage"),
        "What became of circuits, the newest first",
    )
    .query(&[
        may("circuit", "uuid", "only this circuit"),
        may("session", "uuid", "only this session's circuits"),
        may(
            "worker",
            "text",
            "only this worker's circuits, by key or name",
        ),
        may("action", "action", "only this"),
        may("since", "time", "from this moment on"),
        may("until", "time", "before this moment"),
        may("limit", "count", "entries on a page, at most 1000"),
        may("cursor", "text", "the `next` of the page before"),
    ])
    .refusals(&[404]),
    Operation::new(
        "delete",
        "/v1/api/circuit/{id}",
        CIRCUITS,
        DONE,
        "Close a circuit",
    ),
];

const OPENING_CALLS: &[Operation] = &[
    post(
        "/v2/conf",
        OPENERS,
        Answer::Json("Token"),
        "A token to open a session's apps with",
    )
    .access(Access::SecretUnlessAllowed)
    .body("Configuration"),
    get(
        "/v2/proxy/auth",
        OPENERS,
        Answer::Lead,
        "Open an app, or share its circuit",
    )
    .access(Access::Open)
    .query(OPENING)
    .refusals(&[401, 404, 409, 503]),
    post(
        "/v2/proxy/auth",
        OPENERS,
        Answer::Lead,
        "The same; with the API's secret and the fields of /v2/conf in place of a token, both \
         calls in one",
    )
    .access(Access::Open)
    .body("Opening")
    .refusals(&[401, 404, 409, 503]),
    post(
        "/api/v1/route",
        OPENERS,
        Answer::Json("Hosting"),
        "The worker that hosts a session's app, and the app's addresses",
    )
    .body("HostingOrder")
    .refusals(&[404]),
    get(
        ADD,
        OPENERS,
        Answer::Json("Add"),
        "The URL of /v2/proxy/auth with these parameters",
    )
    .access(Access::Open)
    .query(ADDING),
    get(
        "/v2/proxy/{token}/{session}/delete",
        OPENERS,
        Answer::Json("Removed"),
        "A session's app is done with, or all of its apps",
    )
    .access(Access::Open)
    .query(&[may("app", "filled", "only this app")])
    .refusals(&[401]),
    Operation::new(
        "delete",
        "/v2/proxy/{token}/{session}/delete",
        OPENERS,
        Answer::Json("Removed"),
        "A session's app is done with, or all of its apps",
    )
    .access(Access::Open)
    .query(&[may("app", "filled", "only this app")])
    .refusals(&[401]),
];

const ENDPOINT_CALLS: &[Operation] = &[
    post(
        "/v2/endpoints/bulk",
        ENDPOINTS,
        Answer::Json("EndpointsOpened"),
        "Open endpoints; answers come in the order of the request",
    )
    .body("EndpointsToOpen")
    .refusals(&[409, 503]),
    Operation::new(
        "delete",
        "/v2/endpoints/bulk",
        ENDPOINTS,
        Answer::Json("EndpointOutcomes"),
        "Forget endpoints and close their circuits",
    )
    .body("EndpointIds"),
    post(
        "/v2/endpoints/bulk/routes",
        ENDPOINTS,
        Answer::Json("EndpointOutcomes"),
        "Give endpoints these routes and no others",
    )
    .body("EndpointRoutes"),
    post(
        "/v2/endpoints/bulk/routes/register",
        ENDPOINTS,
        Answer::Json("RoutesRegistered"),
        "Add routes",
    )
    .body("EndpointRoutes"),
    post(
        "/v2/endpoints/bulk/routes/unregister",
        ENDPOINTS,
        Answer::Json("RoutesUnregistered"),
        "Drop routes",
    )
    .body("EndpointRouteIds"),
    post(
        "/v2/endpoints/{id}",
        ENDPOINTS,
        Answer::Json("EndpointOpened"),
        "Open one endpoint",
    )
    .body("EndpointToOpen")
    .refusals(&[409, 503]),
    Operation::new(
        "delete",
        "/v2/endpoints/{id}",
        ENDPOINTS,
        DONE,
        "Forget one endpoint and close its circuits; one that is not there is gone already",
    ),
    Operation::new(
        "put",
        "/v2/endpoints/{id}/health-check",
        ENDPOINTS,
        DONE,
        "How an endpoint's routes are probed",
    )
    .body("HealthCheckSetting"),
    post(
        "/v2/endpoints/{id}/token",
        ENDPOINTS,
        Answer::Json("EndpointToken"),
        "A bearer token for an endpoint's users",
    )
    .body("EndpointTokenOrder"),
];

const OWN_CALLS: &[Operation] = &[
    get(
        "/workers",
        OWN,
        Answer::Json("FleetList"),
        "All workers, without their slots",
    ),
    post(
        "/workers/register",
        OWN,
        Answer::Json("Joined"),
        "Register a worker; the answer holds the circuits it has to serve",
    )
    .body("Registration"),
    Operation::new(
        "delete",
        "/workers/{id}",
        OWN,
        DONE,
        "The worker, or the node that X-Patchbay-Node names, leaves",
    ),
    post(
        "/routes",
        OWN,
        Answer::Json("Mapping"),
        "Lead to a session's service: 201, or 200 with the route that does so already",
    )
    .body("MappingOrder")
    .refusals(&[404, 409, 503]),
    get(
        "/routes",
        OWN,
        Answer::Json("Mappings"),
        "Which session's service is reached where",
    )
    .query(&[
        may("session_id", "uuid", "only this session's"),
        may("service", "filled", "only of this service"),
        may("worker", "filled", "only on this worker, by key or name"),
        may("limit", "count", "routes on a page, at most 1000"),
        may("cursor", "uuid", "the `next` of the page before"),
    ])
    .refusals(&[404]),
    Operation::new(
        "delete",
        "/routes",
        OWN,
        Answer::Json("SessionEnded"),
        "A session has ended, and all there is of it",
    )
    .query(&[must("session_id", "uuid", "the session")]),
    get("/routes/{id}", OWN, Answer::Json("Mapping"), "One route"),
    Operation::new(
        "put",
        "/routes/{id}",
        OWN,
        Answer::Json("Mapping"),
        "The session's kernel has moved",
    )
    .body("Address")
    .refusals(&[409]),
    Operation::new("delete", "/routes/{id}", OWN, DONE, "Close a route"),
];

/// Every operation there is.
pub(super) fn all() -> impl Iterator<Item = &'static Operation> {
    [
        SYSTEM_CALLS,
        HEALTH_CALLS,
        WORKER_CALLS,
        CIRCUIT_CALLS,
        super::grants::CALLS,
        OPENING_CALLS,
        ENDPOINT_CALLS,
        OWN_CALLS,
        SERVICE_CALLS,
        super::tunnels::CALLS,
    ]
    .into_iter()
    .flatten()
}
