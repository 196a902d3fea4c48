-- What every node of a worker last said of its routes: those out of service, as one JSON object.
CREATE TABLE patchbay_route_reports (
  worker TEXT NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
  node TEXT NOT NULL,
  reported_at INTEGER NOT NULL,
  report TEXT NOT NULL,
  PRIMARY KEY (worker, node)
) STRICT;
