-- What every gateway last told of the tunnels it holds, as one JSON object.
CREATE TABLE patchbay_tunnels (
  worker TEXT NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
  node TEXT NOT NULL,
  told_at INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  claim TEXT NOT NULL,
  PRIMARY KEY (worker, node)
) STRICT;
