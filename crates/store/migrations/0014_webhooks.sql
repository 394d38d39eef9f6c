-- Outgoing webhooks of accounts. The key is closed under the operator's key.
CREATE TABLE webhook (
    webhook_id TEXT PRIMARY KEY,
    account_id BYTES NOT NULL,
    url TEXT NOT NULL,
    -- Kinds of events, with a space between them; empty: all.
    kinds TEXT NOT NULL,
    sealed_key BYTES NOT NULL,
    created_at BIGINT NOT NULL,
    -- The receiver said that it is gone.
    gone_at BIGINT
) CLUSTERED;
CREATE INDEX webhook_account ON webhook (account_id, created_at);
-- Up to which of an agent's events a webhook has its deliveries.
CREATE TABLE webhook_cursor (
    webhook_id TEXT NOT NULL,
    npub BYTES NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (webhook_id, npub)
) CLUSTERED;
CREATE TABLE webhook_delivery (
    webhook_id TEXT NOT NULL,
    npub BYTES NOT NULL,
    seq BIGINT NOT NULL,
    kind TEXT NOT NULL,
    -- pending, delivered, dead
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    next_at BIGINT NOT NULL,
    -- Of the last attempt.
    said TEXT,
    at BIGINT NOT NULL,
    PRIMARY KEY (webhook_id, npub, seq)
) CLUSTERED;
CREATE INDEX webhook_delivery_due ON webhook_delivery (webhook_id, next_at) WHERE state = 'pending';
CREATE INDEX webhook_delivery_state ON webhook_delivery (webhook_id, state, at);
