-- When the database was put back from a backup: what was sent to the agent before that is not looked at again.
ALTER TABLE agent ADD COLUMN restored_at BIGINT;
-- Set then, until the agent's worker has compared its wallet with its books.
ALTER TABLE agent ADD COLUMN unreconciled BIGINT NOT NULL DEFAULT 0;
