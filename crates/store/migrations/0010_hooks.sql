-- Incoming webhooks of agents. The key is closed under the operator's key.
CREATE TABLE hook (
    hook_id TEXT PRIMARY KEY,
    npub BYTES NOT NULL,
    name TEXT NOT NULL,
    sealed_key BYTES NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT
) CLUSTERED;
CREATE INDEX hook_agent ON hook (npub, created_at);
