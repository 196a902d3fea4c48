-- What became of every circuit: opened, closed, moved to another worker, led elsewhere. Rows are
-- only added, in the transaction of the change, and forgotten by age. Nothing refers to the tables
-- of circuits and workers: the rows outlive them.
CREATE TABLE patchbay_audit (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  action TEXT NOT NULL,
  circuit TEXT NOT NULL,
  app TEXT,
  session_ids TEXT NOT NULL,
  endpoint_id TEXT,
  user_id TEXT,
  worker TEXT NOT NULL,
  authority TEXT NOT NULL,
  slot TEXT NOT NULL,
  -- The worker a moved circuit was on before.
  from_worker TEXT,
  from_authority TEXT,
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  detail TEXT,
  request_id TEXT
) STRICT;
CREATE INDEX patchbay_audit_circuit ON patchbay_audit (circuit, seq);
CREATE INDEX patchbay_audit_worker ON patchbay_audit (worker, seq);
CREATE INDEX patchbay_audit_from_worker ON patchbay_audit (from_worker, seq)
  WHERE from_worker IS NOT NULL;
CREATE INDEX patchbay_audit_at ON patchbay_audit (at);

-- Finds a session's rows.
CREATE TABLE patchbay_audit_sessions (
  session TEXT NOT NULL,
  seq INTEGER NOT NULL REFERENCES patchbay_audit (seq) ON DELETE CASCADE,
  PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX patchbay_audit_sessions_seq ON patchbay_audit_sessions (seq);
