-- Grants to a circuit that count no more, as JSON; NULL where there are none. They go with the row.
ALTER TABLE circuits ADD COLUMN revocations TEXT;
