-- What the agent's owner was last told that it needs them for, and when; null when it needs nothing.
ALTER TABLE agent ADD COLUMN noticed TEXT;
ALTER TABLE agent ADD COLUMN noticed_at BIGINT;
