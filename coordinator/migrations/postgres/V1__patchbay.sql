-- What Patchbay adds to the incumbent's schema: nullable columns, indexes, tables of its own. The
-- Python coordinator runs on with all of it in place (contract/database.md §1).

ALTER TABLE circuits ADD COLUMN IF NOT EXISTS origin_request_id varchar(128);
-- The domain a subdomain is unique in, lower case; null on rows the incumbent made.
ALTER TABLE circuits ADD COLUMN IF NOT EXISTS slot_domain varchar(1024);

-- A slot belongs to one circuit.
CREATE UNIQUE INDEX patchbay_circuits_port ON circuits (worker, port) WHERE port IS NOT NULL;
CREATE UNIQUE INDEX patchbay_circuits_subdomain ON circuits (worker, subdomain)
  WHERE subdomain IS NOT NULL;
CREATE UNIQUE INDEX patchbay_circuits_domain ON circuits (slot_domain, subdomain)
  WHERE slot_domain IS NOT NULL AND subdomain IS NOT NULL;

CREATE INDEX patchbay_circuits_worker ON circuits (worker, created_at, id);
CREATE INDEX patchbay_circuits_endpoint ON circuits (endpoint_id) WHERE endpoint_id IS NOT NULL;
CREATE INDEX patchbay_circuits_sessions ON circuits USING gin (session_ids);
CREATE INDEX patchbay_tokens_session ON tokens (session_id);

-- How many changes a worker's circuits have seen, and up to which it says it serves.
CREATE TABLE patchbay_generations (
  worker uuid NOT NULL PRIMARY KEY REFERENCES workers (id) ON DELETE CASCADE,
  generation bigint NOT NULL DEFAULT 0,
  acknowledged bigint NOT NULL DEFAULT 0
);

-- The outbox, and the log that workers resume from.
CREATE TABLE patchbay_events (
  worker uuid NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
  generation bigint NOT NULL,
  name text NOT NULL,
  body text NOT NULL,
  request_id text,
  created_at timestamptz NOT NULL,
  published_at timestamptz,
  PRIMARY KEY (worker, generation)
);
CREATE INDEX patchbay_events_unpublished ON patchbay_events (created_at)
  WHERE published_at IS NULL;
CREATE INDEX patchbay_events_published ON patchbay_events (created_at)
  WHERE published_at IS NOT NULL;

-- The processes that serve under a worker's name, where they name themselves.
CREATE TABLE patchbay_nodes (
  worker uuid NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
  node_id varchar(255) NOT NULL,
  last_seen timestamptz NOT NULL,
  PRIMARY KEY (worker, node_id)
);
