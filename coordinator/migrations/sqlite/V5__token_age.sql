-- When a token was minted. Tokens that were there already count from now.
ALTER TABLE tokens ADD COLUMN created_at INTEGER;
UPDATE tokens SET created_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000000;
CREATE INDEX tokens_created ON tokens (created_at);
