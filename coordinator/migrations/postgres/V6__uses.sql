-- How circuits of workers without Redis are used, and until when each node has told all it knows.
CREATE TABLE patchbay_uses (
  circuit uuid NOT NULL PRIMARY KEY REFERENCES circuits (id) ON DELETE CASCADE,
  last_use timestamptz NOT NULL,
  requests bigint NOT NULL
);
ALTER TABLE patchbay_nodes ADD COLUMN uses_told_at timestamptz;
