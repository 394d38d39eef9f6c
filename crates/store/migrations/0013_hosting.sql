-- What hosting costs and who paid: double entry. An entry's lines sum to zero; rows are only ever added.
CREATE TABLE ledger_entry (
    -- What happened, once: `paid:<payment hash>`, `month:<npub>:<start>:<number>`, ...
    entry_key TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    account_id BYTES,
    npub BYTES,
    note TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX ledger_entry_account ON ledger_entry (account_id, at);
CREATE TABLE ledger_line (
    entry_key TEXT NOT NULL REFERENCES ledger_entry (entry_key),
    -- lightning, credit, income, suspense
    book TEXT NOT NULL,
    account_id BYTES,
    amount_msat BIGINT NOT NULL,
    PRIMARY KEY (entry_key, book)
);
-- What the account has paid in and not used: minus the sum of its lines in `credit`.
ALTER TABLE account ADD COLUMN credit_msat BIGINT NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN trial_until BIGINT;
-- From where an agent's months count, how many are paid, what the last cost, and until when.
ALTER TABLE agent ADD COLUMN hosted_from BIGINT;
ALTER TABLE agent ADD COLUMN hosted_months BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agent ADD COLUMN month_fee_msat BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agent ADD COLUMN paid_until BIGINT;
-- The last notice given for this end, in days before it; and when its hosting is looked at next.
ALTER TABLE agent ADD COLUMN hosting_notice BIGINT;
ALTER TABLE agent ADD COLUMN hosting_look_at BIGINT NOT NULL DEFAULT 0;
-- As its account's plan allows; null for no bound.
ALTER TABLE agent ADD COLUMN ticks_per_day BIGINT;
CREATE INDEX agent_hosting_look ON agent (hosting_look_at, npub);
CREATE TABLE hosting_invoice (
    payment_hash BYTES PRIMARY KEY,
    account_id BYTES NOT NULL REFERENCES account (account_id),
    amount_msat BIGINT NOT NULL,
    memo TEXT NOT NULL,
    -- Closed under the operator's key.
    sealed_preimage BYTES NOT NULL,
    -- Empty until the node has made it.
    bolt11 TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    -- open, paid, expired
    state TEXT NOT NULL,
    paid_msat BIGINT,
    paid_at BIGINT,
    look_at BIGINT NOT NULL,
    -- account, anybody
    origin TEXT NOT NULL
);
CREATE INDEX hosting_invoice_account ON hosting_invoice (account_id, created_at);
CREATE INDEX hosting_invoice_look ON hosting_invoice (look_at) WHERE state <> 'paid';
