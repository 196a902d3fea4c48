-- What every node of a worker last said of its routes: those out of service, as one JSON object.
-- One small row a node, so that all coordinators of a database answer alike.
CREATE TABLE patchbay_route_reports (
  worker uuid NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
  node varchar(255) NOT NULL,
  reported_at timestamptz NOT NULL,
  report jsonb NOT NULL,
  PRIMARY KEY (worker, node)
);
