-- Services of the gateway. There is one for each name and each origin that says so: `api` for those
-- that were put, `docker.NAME` for those found in an engine's labels.
CREATE TABLE patchbay_services (
  name TEXT NOT NULL,
  origin TEXT NOT NULL,
  -- Since which generation it is so.
  generation INTEGER NOT NULL,
  -- JSON.
  definition TEXT NOT NULL,
  updated_at INTEGER NOT NULL,
  PRIMARY KEY (name, origin)
) STRICT, WITHOUT ROWID;

-- How many changes all services together have seen.
CREATE TABLE patchbay_services_generation (
  only_row INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
  generation INTEGER NOT NULL
) STRICT;
INSERT INTO patchbay_services_generation (generation) VALUES (0);

-- Every change: the log that workers resume from, and who made it and why. Rows are only added, in
-- the transaction of the change, and forgotten by age.
CREATE TABLE patchbay_service_changes (
  generation INTEGER NOT NULL PRIMARY KEY,
  at INTEGER NOT NULL,
  name TEXT NOT NULL,
  origin TEXT NOT NULL,
  -- Null if it is gone.
  definition TEXT,
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  detail TEXT,
  request_id TEXT
) STRICT;
CREATE INDEX patchbay_service_changes_name ON patchbay_service_changes (name, generation);
CREATE INDEX patchbay_service_changes_at ON patchbay_service_changes (at);
