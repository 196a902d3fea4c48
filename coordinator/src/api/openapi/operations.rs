//! The table of operations: what each method of each path is for, asks for and answers.

use serde_json::{Value, json};

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Anybody.
    Open,
    /// Holders of the API's secret.
    Secret,
    /// The same, unless `allow_unauthorized_configure_request` is set.
    SecretUnlessAllowed,
    /// The networks of `metric_access_allowed_hosts`.
    Networks,
}

/// What comes back when all is well.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// JSON of this schema.
    Json(&'static str),
    /// A text of this media type.
    Text(&'static str, &'static str),
    /// The way to an app: JSON or a redirect.
    Lead,
}

/// A parameter of the query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// A word of `schemas::word`.
    pub(super) kind: &'static str,
    pub(super) required: bool,
    pub(super) about: &'static str,
}

const fn must(name: &'static str, kind: &'static str, about: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        required: true,
        about,
    }
}

const fn may(name: &'static str, kind: &'static str, about: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        required: false,
        about,
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) access: Access,
    pub(super) query: &'static [Parameter],
    pub(super) body: Option<&'static str>,
    pub(super) answer: Answer,
    /// Beside those that follow from access, path and parameters.
    pub(super) refusals: &'static [u16],
}

impl Operation {
    const fn new(
        method: &'static str,
        path: &'static str,
        tag: &'static str,
        answer: Answer,
        summary: &'static str,
    ) -> Self {
        Self {
            method,
            path,
            tag,
            summary,
            access: Access::Secret,
            query: &[],
            body: None,
            answer,
            refusals: &[],
        }
    }

    const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    const fn query(mut self, query: &'static [Parameter]) -> Self {
        self.query = query;
        self
    }

    const fn body(mut self, schema: &'static str) -> Self {
        self.body = Some(schema);
        self
    }

    const fn refusals(mut self, statuses: &'static [u16]) -> Self {
        self.refusals = statuses;
        self
    }

    /// A name for generated clients: `delete_api_circuit_id`.
    pub(super) fn id(&self) -> String {
        let words = self
            .path
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty());
        std::iter::once(self.method)
            .chain(words)
            .collect::<Vec<_>>()
            .join("_")
    }
}

/// The path whose segments are passed on as they are.
pub(super) const ADD: &str = "/v2/proxy/{token}/{session}/add";

/// How a segment of a path is written.
pub(super) fn segment(path: &str, _name: &str) -> Value {
    if path == ADD {
        json!({"type": "string", "minLength": 1})
    } else {
        json!({"type": "string", "format": "uuid"})
    }
}

/// Why a request is answered with a status.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        400 => "parameters are missing or wrong; `data.errors` lists them",
        401 => "no credential, or not the right one",
        403 => "not for this caller",
        404 => "there is no such thing",
        409 => "the slot belongs to another circuit",
        503 => "no worker is available, or it does not respond",
        _ => "refused",
    }
}

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

const fn get(
    path: &'static str,
    tag: &'static str,
    answer: Answer,
    summary: &'static str,
) -> Operation {
    Operation::new("get", path, tag, answer, summary)
}

const DONE: Answer = Answer::Json("Success");
const SYSTEM: &str = "system";
const WORKERS: &str = "workers";
const CIRCUITS: &str = "circuits";
const OPENERS: &str = "opening";
const ENDPOINTS: &str = "endpoints";
const HEALTH: &str = "health";

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
    Operation::new(
        "post",
        "/api/worker/{id}/acknowledgements",
        WORKERS,
        DONE,
        "The worker serves everything up to a generation",
    )
    .body("Acknowledgement"),
    Operation::new(
        "post",
        "/api/worker/{id}/route-health",
        WORKERS,
        DONE,
        "What a node (X-Patchbay-Node) says of its routes, in place of what it said before",
    )
    .body("RouteReport"),
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
    Operation::new(
        "post",
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
    Operation::new(
        "post",
        "/v2/proxy/auth",
        OPENERS,
        Answer::Lead,
        "The same; with the API's secret and the fields of /v2/conf in place of a token, both \
         calls in one",
    )
    .access(Access::Open)
    .body("Opening")
    .refusals(&[401, 404, 409, 503]),
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
    Operation::new(
        "post",
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
    Operation::new(
        "post",
        "/v2/endpoints/bulk/routes",
        ENDPOINTS,
        Answer::Json("EndpointOutcomes"),
        "Give endpoints these routes and no others",
    )
    .body("EndpointRoutes"),
    Operation::new(
        "post",
        "/v2/endpoints/bulk/routes/register",
        ENDPOINTS,
        Answer::Json("RoutesRegistered"),
        "Add routes",
    )
    .body("EndpointRoutes"),
    Operation::new(
        "post",
        "/v2/endpoints/bulk/routes/unregister",
        ENDPOINTS,
        Answer::Json("RoutesUnregistered"),
        "Drop routes",
    )
    .body("EndpointRouteIds"),
    Operation::new(
        "post",
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
    Operation::new(
        "post",
        "/v2/endpoints/{id}/token",
        ENDPOINTS,
        Answer::Json("EndpointToken"),
        "A bearer token for an endpoint's users",
    )
    .body("EndpointTokenOrder"),
];

/// Every operation there is.
pub(super) fn all() -> impl Iterator<Item = &'static Operation> {
    [
        SYSTEM_CALLS,
        HEALTH_CALLS,
        WORKER_CALLS,
        CIRCUIT_CALLS,
        OPENING_CALLS,
        ENDPOINT_CALLS,
    ]
    .into_iter()
    .flatten()
}
