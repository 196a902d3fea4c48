-- What every gateway last told of the tunnels it holds, as one JSON object. Who holds a name is
-- settled with all rows in hand, one claim after the other.
CREATE TABLE patchbay_tunnels (
  worker uuid NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
  node varchar(255) NOT NULL,
  told_at timestamptz NOT NULL,
  generation bigint NOT NULL,
  claim jsonb NOT NULL,
  PRIMARY KEY (worker, node)
);
