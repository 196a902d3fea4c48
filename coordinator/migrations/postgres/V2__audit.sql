-- What became of every circuit: opened, closed, moved to another worker, led elsewhere. Rows are
-- only added, in the transaction of the change, and forgotten by age. Nothing refers to the tables
-- of circuits and workers: the rows outlive them.
CREATE TABLE patchbay_audit (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL,
  action text NOT NULL,
  circuit uuid NOT NULL,
  app text,
  session_ids uuid[] NOT NULL,
  endpoint_id uuid,
  user_id uuid,
  worker uuid NOT NULL,
  authority text NOT NULL,
  slot text NOT NULL,
  -- The worker a moved circuit was on before.
  from_worker uuid,
  from_authority text,
  actor text NOT NULL,
  reason text NOT NULL,
  detail text,
  request_id text
);
CREATE INDEX patchbay_audit_circuit ON patchbay_audit (circuit, seq);
CREATE INDEX patchbay_audit_sessions ON patchbay_audit USING gin (session_ids);
CREATE INDEX patchbay_audit_worker ON patchbay_audit (worker, seq);
CREATE INDEX patchbay_audit_from_worker ON patchbay_audit (from_worker, seq)
  WHERE from_worker IS NOT NULL;
CREATE INDEX patchbay_audit_at ON patchbay_audit (at);
