-- What a worker knew of an agent when a heartbeat last had nothing new. As long as none of it has changed and nothing
-- waits, the next heartbeat has nothing new either, and is skipped without opening the agent.
ALTER TABLE agent ADD COLUMN rest_config BIGINT;
ALTER TABLE agent ADD COLUMN rest_policy BIGINT;
ALTER TABLE agent ADD COLUMN rest_at BIGINT;

-- Agents that should run and have no worker, in the order in which they are placed.
CREATE INDEX agent_waiting ON agent (npub) WHERE worker_id IS NULL AND desired = 'running';
