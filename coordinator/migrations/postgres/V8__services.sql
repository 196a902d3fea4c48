-- Services of the gateway. There is one for each name and each origin that says so: `api` for those
-- that were put, `docker.NAME` for those found in an engine's labels.
CREATE TABLE patchbay_services (
  name varchar(64) NOT NULL,
  origin varchar(128) NOT NULL,
  -- Since which generation it is so.
  generation bigint NOT NULL,
  -- JSON.
  definition text NOT NULL,
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (name, origin)
);

-- How many changes all services together have seen.
CREATE TABLE patchbay_services_generation (
  only_row boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
  generation bigint NOT NULL
);
INSERT INTO patchbay_services_generation (generation) VALUES (0);

-- Every change: the log that workers resume from, and who made it and why. Rows are only added, in
-- the transaction of the change, and forgotten by age.
CREATE TABLE patchbay_service_changes (
  generation bigint NOT NULL PRIMARY KEY,
  at timestamptz NOT NULL,
  name varchar(64) NOT NULL,
  origin varchar(128) NOT NULL,
  -- Null if it is gone.
  definition text,
  actor text NOT NULL,
  reason text NOT NULL,
  detail text,
  request_id text
);
CREATE INDEX patchbay_service_changes_name ON patchbay_service_changes (name, generation);
CREATE INDEX patchbay_service_changes_at ON patchbay_service_changes (at);
