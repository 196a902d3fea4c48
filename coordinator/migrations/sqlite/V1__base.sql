-- The model of contract/database.md in SQLite's words, with Patchbay's own tables.
-- Ids are hyphenated lower-case text, times are microseconds since 1970 in UTC, JSON is text.

CREATE TABLE workers (
  id TEXT NOT NULL PRIMARY KEY,
  authority TEXT NOT NULL UNIQUE,
  frontend_mode TEXT NOT NULL,
  protocol TEXT NOT NULL,
  hostname TEXT NOT NULL,
  tls_listen INTEGER NOT NULL,
  tls_advertised INTEGER NOT NULL,
  api_port INTEGER NOT NULL,
  available_slots INTEGER NOT NULL,
  occupied_slots INTEGER NOT NULL,
  port_range TEXT,
  wildcard_domain TEXT,
  wildcard_traffic_port INTEGER,
  nodes INTEGER NOT NULL,
  accepted_traffics TEXT NOT NULL,
  filtered_apps_only INTEGER NOT NULL,
  traefik_last_used_marker_path TEXT,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  status TEXT NOT NULL
) STRICT;

CREATE TABLE worker_app_filters (
  id TEXT NOT NULL PRIMARY KEY,
  property_name TEXT NOT NULL,
  property_value TEXT NOT NULL,
  worker TEXT NOT NULL REFERENCES workers(id),
  UNIQUE (worker, property_name, property_value)
) STRICT;

CREATE TABLE circuits (
  id TEXT NOT NULL PRIMARY KEY,
  app TEXT,
  protocol TEXT NOT NULL,
  worker TEXT NOT NULL REFERENCES workers(id),
  app_mode TEXT NOT NULL,
  frontend_mode TEXT NOT NULL,
  port INTEGER,
  subdomain TEXT,
  slot_domain TEXT,
  envs TEXT NOT NULL,
  arguments TEXT,
  open_to_public INTEGER NOT NULL,
  allowed_client_ips TEXT,
  user_id TEXT,
  endpoint_id TEXT,
  runtime_variant TEXT,
  session_ids TEXT NOT NULL,
  route_info TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  origin_request_id TEXT
) STRICT;

-- A slot belongs to one circuit.
CREATE UNIQUE INDEX circuits_port ON circuits (worker, port) WHERE port IS NOT NULL;
CREATE UNIQUE INDEX circuits_subdomain ON circuits (worker, subdomain) WHERE subdomain IS NOT NULL;
CREATE UNIQUE INDEX circuits_domain ON circuits (slot_domain, subdomain)
  WHERE slot_domain IS NOT NULL AND subdomain IS NOT NULL;
CREATE INDEX circuits_endpoint ON circuits (endpoint_id) WHERE endpoint_id IS NOT NULL;
CREATE INDEX circuits_worker ON circuits (worker);

-- Finds a session's circuits; circuits.session_ids rules.
CREATE TABLE circuit_sessions (
  session TEXT NOT NULL,
  circuit TEXT NOT NULL REFERENCES circuits(id) ON DELETE CASCADE,
  PRIMARY KEY (session, circuit)
) STRICT, WITHOUT ROWID;
CREATE INDEX circuit_sessions_circuit ON circuit_sessions (circuit);

CREATE TABLE tokens (
  id TEXT NOT NULL PRIMARY KEY,
  login_session_token TEXT,
  kernel_host TEXT NOT NULL,
  kernel_port INTEGER NOT NULL,
  session_id TEXT NOT NULL,
  user_uuid TEXT NOT NULL,
  group_id TEXT NOT NULL,
  access_key TEXT NOT NULL,
  domain_name TEXT NOT NULL
) STRICT;
CREATE INDEX tokens_session ON tokens (session_id);

CREATE TABLE endpoints (
  id TEXT NOT NULL PRIMARY KEY,
  health_check_enabled INTEGER NOT NULL,
  health_check_config TEXT,
  created_at INTEGER,
  updated_at INTEGER
) STRICT;

-- How many changes a worker's circuits have seen, and up to which it says it serves.
CREATE TABLE patchbay_generations (
  worker TEXT NOT NULL PRIMARY KEY REFERENCES workers(id) ON DELETE CASCADE,
  generation INTEGER NOT NULL DEFAULT 0,
  acknowledged INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The outbox, and the log that workers resume from.
CREATE TABLE patchbay_events (
  worker TEXT NOT NULL REFERENCES workers(id) ON DELETE CASCADE,
  generation INTEGER NOT NULL,
  name TEXT NOT NULL,
  body TEXT NOT NULL,
  request_id TEXT,
  created_at INTEGER NOT NULL,
  published_at INTEGER,
  PRIMARY KEY (worker, generation)
) STRICT;
CREATE INDEX patchbay_events_unpublished ON patchbay_events (created_at)
  WHERE published_at IS NULL;
CREATE INDEX patchbay_events_published ON patchbay_events (created_at)
  WHERE published_at IS NOT NULL;

-- The processes that serve under a worker's name, where they name themselves.
CREATE TABLE patchbay_nodes (
  worker TEXT NOT NULL REFERENCES workers(id) ON DELETE CASCADE,
  node_id TEXT NOT NULL,
  last_seen INTEGER NOT NULL,
  PRIMARY KEY (worker, node_id)
) STRICT, WITHOUT ROWID;
