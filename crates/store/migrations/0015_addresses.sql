-- Under which people find and pay an agent, before the @ of this host: one agent each, first come.
ALTER TABLE agent ADD COLUMN address TEXT;
CREATE UNIQUE INDEX agent_address ON agent (address);
-- Whether the schedule that relays have of it says that it is active.
ALTER TABLE agent ADD COLUMN shown_active BIGINT NOT NULL DEFAULT 0;
-- What a zap's receipt will be made of: the signed request as it came, and the invoice (JSON). None: it is no zap.
ALTER TABLE invoice_watch ADD COLUMN zap TEXT;
-- Agents that listen to relays of others. What is in quotes is how a configuration with relays begins to list them.
CREATE INDEX agent_outside ON agent (npub) WHERE config LIKE '%"relays":["%';
-- Relays of others that are listened to: when each last said that it had sent all it has, and what is wrong with it.
CREATE TABLE outside_relay (
    url TEXT PRIMARY KEY,
    heard_at BIGINT,
    problem TEXT,
    changed_at BIGINT NOT NULL
) CLUSTERED;
-- How often a tick took it and bought nothing.
ALTER TABLE inbox ADD COLUMN tries BIGINT NOT NULL DEFAULT 0;
