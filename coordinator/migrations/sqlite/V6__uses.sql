-- How circuits of workers without Redis are used, and until when each node has told all it knows.
CREATE TABLE patchbay_uses (
  circuit TEXT NOT NULL PRIMARY KEY REFERENCES circuits (id) ON DELETE CASCADE,
  last_use INTEGER NOT NULL,
  requests INTEGER NOT NULL
) STRICT;
ALTER TABLE patchbay_nodes ADD COLUMN uses_told_at INTEGER;
