-- Agents that nobody holds are found by agent_waiting, in the order in which they are placed, and by nothing else.
DROP INDEX agent_worker;
CREATE INDEX agent_worker ON agent (worker_id, desired_rev) WHERE worker_id IS NOT NULL;
