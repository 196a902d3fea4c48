-- Work that one coordinator at a time does: who does it, and until when he may without asking again.
CREATE TABLE patchbay_leases (
  name text NOT NULL PRIMARY KEY,
  holder uuid NOT NULL,
  until timestamptz NOT NULL
);

-- Finds the inference circuits that lead to a session.
CREATE INDEX patchbay_circuits_routes ON circuits USING gin (route_info jsonb_path_ops)
  WHERE endpoint_id IS NOT NULL;
