//! How bodies look. The tests hold the schemas of answers against what is really answered.

use serde_json::{Map, Value, json};

/// A schema of one word, as parameters and fields use it. A question mark makes it nullable.
pub(super) fn word(kind: &str) -> Value {
    let (bare, nullable) = match kind.strip_suffix('?') {
        Some(bare) => (bare, true),
        None => (kind, false),
    };
    let mut schema = match bare {
        "uuid" => json!({"type": "string", "format": "uuid"}),
        "time" => json!({"type": "string", "format": "date-time"}),
        "text" => json!({"type": "string"}),
        "filled" => json!({"type": "string", "minLength": 1}),
        "flag" => json!({"type": "boolean"}),
        "int" => json!({"type": "integer"}),
        "count" => json!({"type": "integer", "minimum": 0}),
        "number" => json!({"type": "number"}),
        "seconds" => json!({"type": "number", "minimum": 0}),
        "port" => json!({"type": "integer", "minimum": 1, "maximum": 65_535}),
        "object" => json!({"type": "object"}),
        "protocol" => json!({
            "type": "string",
            "enum": ["http", "grpc", "h2", "tcp", "preopen", "vnc", "rdp"],
        }),
        "mode" => json!({"type": "string", "enum": ["interactive", "inference"]}),
        "frontend" => json!({"type": "string", "enum": ["wildcard", "port"]}),
        "status" => json!({
            "type": "string",
            "enum": ["ALIVE", "LOST", "TERMINATED"],
        }),
        "action" => json!({
            "type": "string",
            "enum": ["opened", "closed", "moved", "rerouted", "revoked"],
        }),
        "state" => json!({
            "type": "string",
            "enum": ["healthy", "degraded", "unhealthy", "unknown"],
        }),
        "ports" => json!({
            "type": "array", "items": word("port"), "minItems": 2, "maxItems": 2,
        }),
        other => match other.strip_suffix("[]") {
            Some(item) => json!({"type": "array", "items": word(item)}),
            None => json!({"$ref": format!("#/components/schemas/{other}")}),
        },
    };
    if nullable {
        if schema.get("$ref").is_some() {
            schema = json!({"allOf": [schema]});
        }
        schema["nullable"] = true.into();
    }
    schema
}

/// An object: `name: kind` a line, optional fields with a question mark behind the name.
fn object(lines: &str) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, kind) = line.split_once(": ").unwrap_or((line, "text"));
        let (name, optional) = match name.strip_suffix('?') {
            Some(name) => (name, true),
            None => (name, false),
        };
        properties.insert(name.to_owned(), word(kind));
        if !optional {
            required.push(name.to_owned());
        }
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

/// All schemas by name.
pub(super) fn all() -> Value {
    let mut all = Map::new();
    for (name, lines) in OBJECTS {
        all.insert((*name).to_owned(), object(lines));
    }
    for (name, item) in LISTS {
        all.insert((*name).to_owned(), word(&format!("{item}[]")));
    }
    let used = format!("{CIRCUIT}\nrequests: count\nlast_access: int\nttl: count?");
    all.insert("Statistics".into(), object(&used));
    all.insert("Anything".into(), json!({}));
    if let Some(mut listed) = all.get("Worker").cloned() {
        listed["properties"]["status"] = word("status");
        all.insert("ListedWorker".into(), listed);
    }
    Value::Object(all)
}

const LISTS: &[(&str, &str)] = &[("WorkersV1", "WorkerV1"), ("SlotsV1", "SlotV1")];

const OBJECTS: &[(&str, &str)] = &[
    (
        "Document",
        "openapi: text\ninfo: object\npaths: object\ncomponents: object",
    ),
    ("Success", "success: flag"),
    (
        "Problem",
        "type: text\ntitle: text\nerror_code: text\nmsg?: text\ndata?: Anything",
    ),
    ("Status", "api_version: text\nadvertise_address: text"),
    (
        "Health",
        "status: text\nversion: text\ncomponent: text\nconnectivity: Connectivity",
    ),
    (
        "Connectivity",
        "overall_healthy: flag\nconnectivity_checks: Component[]\ntimestamp: time",
    ),
    (
        "Component",
        "service_group: text\ncomponent_id: text\nis_healthy: flag\nlast_checked_at: time
         error_message: text?",
    ),
    (
        "Fleet",
        "coordinator_version: text\nappproxy_api_version: text\nworkers: FleetWorker[]",
    ),
    (
        "FleetWorker",
        "authority: text\navailable_slots: int\noccupied_slots: int\nha_setup: flag",
    ),
    (
        "Registration",
        "authority: filled\nfrontend_mode: frontend\nprotocol: protocol\nhostname: filled
         tls_listen: flag\ntls_advertised: flag\napi_port: port\naccepted_traffics: mode[]
         filtered_apps_only: flag\napp_filters?: AppFilter[]\nport_range?: ports?
         wildcard_domain?: text?\nwildcard_traffic_port?: port?
         traefik_last_used_marker_path?: text?\nnode_id?: filled",
    ),
    ("AppFilter", "key: text\nvalue: text"),
    (
        "Worker",
        "authority: text\nfrontend_mode: frontend\nprotocol: protocol\nhostname: text
         tls_listen: flag\ntls_advertised: flag\napi_port: port\nport_range: ports?
         wildcard_domain: text?\nwildcard_traffic_port: port?\nfiltered_apps_only: flag
         traefik_last_used_marker_path: text?\naccepted_traffics: mode[]\nid: uuid
         created_at: time\nupdated_at: time\navailable_slots: int\noccupied_slots: int
         nodes: int\nslots: Slot[]\ngeneration?: count\nservices_generation?: count",
    ),
    ("Workers", "workers: Worker[]"),
    (
        "WorkerV1",
        "authority: text\nendpoint: text\ntotal_slots: int\nports_in_use: int\nmin_range: port?
         max_range: port?\nwildcard_domain: text?\ncreated: time\nupdated: time",
    ),
    ("Acknowledgement", "generation: count"),
    (
        "Slot",
        "frontend_mode: frontend\nin_use: flag\nport: port?\nsubdomain: text?\ncircuit_id: uuid?",
    ),
    ("Slots", "slots: Slot[]"),
    (
        "SlotV1",
        "rel: uuid\nport: port?\nsubdomain: text?\nwsproxy_version: text\nworker__authority: text
         circuit__app: text?\ncircuit__session_id: uuid?\ncircuit__open_to_public: flag
         circuit__allowed_client_ips: text?\ncircuit__envs: text?\ncircuit__arguments: text?
         circuit__created: time\ncircuit__modified: time",
    ),
    ("Circuit", CIRCUIT),
    (
        "Route",
        "route_id: uuid?\nsession_id: uuid\nsession_name: text?\nkernel_host: text?
         kernel_port: port\nprotocol: protocol\ntraffic_ratio: number",
    ),
    ("WorkerCircuits", "circuits: Circuit[]\ngeneration: count"),
    (
        "Configuration",
        "login_session_token: text?\nkernel_host: filled\nkernel_port: port
         session: ConfiguredSession",
    ),
    (
        "ConfiguredSession",
        "id: uuid?\nuser_uuid: uuid\nproject_id?: uuid\ngroup_id?: uuid\naccess_key: text?
         domain_name: text",
    ),
    ("Token", "token: uuid"),
    (
        "Opening",
        "app: filled\nprotocol: protocol\ntoken?: uuid\nsession_id?: uuid\nenvs?: object
         args?: text?\nopen_to_public?: flag\nallowed_client_ips?: text?\nredirect?: text
         no_reuse?: flag\nport?: port?\nsubdomain?: text?\nlogin_session_token?: text?
         kernel_host?: filled\nkernel_port?: port\nsession?: ConfiguredSession",
    ),
    (
        "Lead",
        "redirect_url: text\nreuse: flag\ntoken?: uuid\ncircuit?: uuid",
    ),
    (
        "MappingOrder",
        "session_id: uuid\nservice: filled\nkernel_host: filled\nkernel_port: port\nprotocol?: protocol
         envs?: object\nargs?: text?\nopen_to_public?: flag\nallowed_client_ips?: text?\nport?: port?
         subdomain?: filled\nworker?: filled\nuser_id?: uuid?\nproject_id?: filled
         access_key?: filled\ndomain_name?: filled",
    ),
    ("Address", "kernel_host: filled\nkernel_port: port"),
    (
        "Mapping",
        "id: uuid\nsession_id: uuid?\nservice: text?\nprotocol: protocol\nkernel_host: text?
         kernel_port: port?\nworker: Host\nfrontend_mode: frontend\nport: port?\nsubdomain: text?
         url: text\nopen_to_public: flag\nuser_id: uuid?\nendpoint_id: uuid?\ncreated_at: time
         updated_at: time\nsetup_url?: text",
    ),
    ("Host", "id: uuid\nauthority: text\navailable: flag"),
    ("Mappings", "routes: Mapping[]\nnext: uuid?"),
    ("SessionEnded", "success: flag\nclosed: count\nchanged: count"),
    ("Joined", "worker_id: uuid\ngeneration: count\nroutes: Circuit[]"),
    ("FleetList", "workers: ListedWorker[]"),
    ("HostingOrder", "session_id: uuid\napp: filled"),
    (
        "Hosting",
        "circuit: uuid\nworker: HostingWorker\nurl: text\nrelay_url: text?",
    ),
    (
        "HostingWorker",
        "id: uuid\nauthority: text\nstatus: text\nendpoint: text",
    ),
    ("Add", "code: int\nurl: text"),
    ("Removed", "code: int\nsuccess: flag"),
    (
        "HealthCheck",
        "enable?: flag\ninterval?: seconds\npath?: text\nmax_retries?: count
         max_wait_time?: seconds\nexpected_status_code?: count\ninitial_delay?: seconds",
    ),
    ("HealthCheckSetting", "health_check: HealthCheck?"),
    (
        "EndpointToOpen",
        "service_name: filled\nversion?: text\ntags: EndpointTags\nopen_to_public?: flag
         health_check?: HealthCheck?",
    ),
    (
        "EndpointTags",
        "session: EndpointSession\nendpoint: EndpointTag",
    ),
    (
        "EndpointSession",
        "user_uuid: uuid\nproject_id?: uuid\ngroup_id?: uuid\ndomain_name: text",
    ),
    (
        "EndpointTag",
        "id?: text\nruntime_variant?: text?\nexisting_url?: text?",
    ),
    (
        "EndpointItem",
        "deployment_id: uuid\nservice_name: filled\nversion?: text\ntags: EndpointTags
         open_to_public?: flag\nhealth_check?: HealthCheck?",
    ),
    ("EndpointsToOpen", "endpoints: EndpointItem[]"),
    (
        "EndpointOpened",
        "success: flag\nendpoint: text\nhealth_check_enabled: flag",
    ),
    ("EndpointsOpened", "endpoints: EndpointOpenedItem[]"),
    (
        "EndpointOpenedItem",
        "deployment_id: uuid\nurl: text\nhealth_check_enabled: flag",
    ),
    ("EndpointId", "deployment_id: uuid"),
    ("EndpointIds", "endpoints: EndpointId[]"),
    (
        "EndpointOutcome",
        "deployment_id: uuid\nsuccess: flag\nerror: text?",
    ),
    ("EndpointOutcomes", "endpoints: EndpointOutcome[]"),
    (
        "NewRoute",
        "session_id: uuid\nroute_id: uuid\nkernel_host: text?\nkernel_port: port",
    ),
    (
        "EndpointRoutesItem",
        "deployment_id: uuid\nroutes: NewRoute[]",
    ),
    ("EndpointRoutes", "endpoints: EndpointRoutesItem[]"),
    (
        "EndpointRouteIdsItem",
        "deployment_id: uuid\nroute_ids: uuid[]",
    ),
    ("EndpointRouteIds", "endpoints: EndpointRouteIdsItem[]"),
    (
        "RouteRegistered",
        "deployment_id: uuid\nsuccess: flag\nregistered_route_ids: uuid[]
         already_registered_route_ids: uuid[]\nerror: text?",
    ),
    ("RoutesRegistered", "endpoints: RouteRegistered[]"),
    (
        "RouteUnregistered",
        "deployment_id: uuid\nsuccess: flag\nunregistered_route_ids: uuid[]
         already_absent_route_ids: uuid[]\nerror: text?",
    ),
    ("RoutesUnregistered", "endpoints: RouteUnregistered[]"),
    ("EndpointTokenOrder", "user_uuid: uuid\nexp: time"),
    (
        "HealthSummary",
        "status: state\ncircuits: Tally\nroutes: UnhealthyRoutes\nworkers: WorkerTally
         timestamp: time",
    ),
    (
        "Tally",
        "total: count\nhealthy: count\ndegraded: count\nunhealthy: count\nunknown: count",
    ),
    ("UnhealthyRoutes", "unhealthy: count"),
    ("WorkerTally", "alive: count\nlost: count\nreporting: count"),
    ("EndpointHealths", "endpoints: CircuitHealth[]\nnext: uuid?"),
    (
        "CircuitHealth",
        "circuit_id: uuid\nendpoint_id: uuid?\napp: text?\nworker: text?\nstatus: state
         health_check: HealthCheck?\nroutes: RouteHealth[]",
    ),
    (
        "RouteHealth",
        "route_id: uuid?\nsession_id: uuid\nkernel_host: text\nkernel_port: port\nstatus: state
         since: time?\nlast_error: text?\nnodes: NodeHealth[]",
    ),
    (
        "NodeHealth",
        "node: text\nstatus: state\nsince: time?\nlast_error: text?\nreported_at: time",
    ),
    ("RouteReport", "circuits: CircuitReport[]\ntruncated?: flag"),
    ("UseReport", "circuits: CircuitUse[]\ncomplete?: flag"),
    (
        "CircuitUse",
        "circuit: uuid\nlast: time\nrequests?: count",
    ),
    (
        "CircuitReport",
        "circuit: uuid\nroutes: count\ndown: DownRoute[]",
    ),
    (
        "DownRoute",
        "route?: uuid?\nsession: uuid\naddress: text\nsince: time\nerror?: text?",
    ),
    (
        "TunnelClaim",
        "relay: RelayAddress?\ntunnels: TunnelHolding[]",
    ),
    ("RelayAddress", "url: text\nkey: text"),
    (
        "TunnelHolding",
        "tunnel: text\nagent: text\nkind: text\nshared?: flag\nvisitors?: text?
         generation?: count",
    ),
    (
        "TunnelsSettled",
        "granted: TunnelHolding[]\nrefused: TunnelRefused[]",
    ),
    (
        "TunnelRefused",
        "tunnel: text\nagent: text\nholder: text\ngeneration: count",
    ),
    (
        "TunnelHoldings",
        "generation: count\ngateways: TunnelGateway[]",
    ),
    (
        "TunnelGateway",
        "worker: uuid\nnode: text\ngeneration: count\nrelay: RelayAddress?
         tunnels: TunnelHolding[]",
    ),
    ("AuditPage", "entries: AuditEntry[]\nnext: text?"),
    (
        "AuditEntry",
        "id: count\nat: time\naction: action\ncircuit: uuid\napp: text?\nsession_ids: uuid[]
         endpoint_id: uuid?\nuser_id: uuid?\nworker: uuid\nauthority: text\nslot: text
         from_worker: uuid?\nfrom_authority: text?\nactor: text\nreason: text\ndetail: text?
         request_id: text?",
    ),
    ("EndpointToken", "token: text"),
    (
        "Revocation",
        "jti?: text?\ntoken?: text?\nall?: flag?\nexpires?: time?",
    ),
    ("Revocations", "up_to: count?\nnames: object"),
    ("Services", "services: Service[]\ngeneration: count"),
    (
        "Service",
        "name: text\norigin: text\ngeneration: count\nupdated_at: time
         definition: ServiceDefinition\nalso?: text[]",
    ),
    // As in a worker's file, which docs/GATEWAY.md explains.
    ("ServiceDefinition", "service: object\nroutes: object"),
    ("ServiceAudit", "entries: ServiceAuditEntry[]\nnext: text?"),
    (
        "ServiceAuditEntry",
        "generation: count\nat: time\nname: text\norigin: text\naction: text
         definition: ServiceDefinition?\nactor: text\nreason: text\ndetail: text?
         request_id: text?",
    ),
];

const CIRCUIT: &str = "id: uuid\napp: text?\nprotocol: protocol\nworker: uuid\napp_mode: mode
     frontend_mode: frontend\nenvs: object\narguments: text?\nopen_to_public: flag
     allowed_client_ips: text?\nport: port?\nsubdomain: text?\nuser_id: uuid?\nendpoint_id: uuid?
     runtime_variant: text?\nroute_info: Route[]\nsession_ids: uuid[]\ncreated_at: time
     updated_at: time\norigin_request_id?: text?\nhealth_check?: HealthCheck?
     revocations?: object
     health?: CircuitHealth\navailable?: flag";
