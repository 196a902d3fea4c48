-- When a token was minted, whoever did: the incumbent names its columns and leaves this one to the
-- default. Tokens that were there already count from now.
ALTER TABLE tokens ADD COLUMN IF NOT EXISTS created_at timestamptz DEFAULT now();
CREATE INDEX patchbay_tokens_created ON tokens (created_at);
