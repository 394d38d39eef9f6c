-- Agents' money at the operator's node: double entry. An entry's lines sum to zero; entries and lines are only ever added.
-- Of one whose agent is deleted or has moved away, what it had stays.
CREATE TABLE sub_account (
    -- The node's public key, in hex.
    node TEXT NOT NULL,
    npub BYTES NOT NULL,
    -- Minus the sum of its lines in `available` and `held`.
    available_msat BIGINT NOT NULL CHECK (available_msat >= 0),
    held_msat BIGINT NOT NULL CHECK (held_msat >= 0),
    PRIMARY KEY (node, npub)
) CLUSTERED;
CREATE INDEX sub_account_npub ON sub_account (npub);
CREATE TABLE sub_entry (
    node TEXT NOT NULL,
    -- What happened, once: `paid:<payment hash>`, `hold:<payment hash>:<npub>:<payment>:<attempt>`, ...
    entry_key TEXT NOT NULL,
    kind TEXT NOT NULL,
    npub BYTES,
    at BIGINT NOT NULL,
    PRIMARY KEY (node, entry_key)
);
CREATE TABLE sub_line (
    node TEXT NOT NULL,
    entry_key TEXT NOT NULL,
    place BIGINT NOT NULL,
    -- lightning, available, held, fees, suspense
    book TEXT NOT NULL,
    npub BYTES,
    amount_msat BIGINT NOT NULL,
    PRIMARY KEY (node, entry_key, place),
    FOREIGN KEY (node, entry_key) REFERENCES sub_entry (node, entry_key)
);
CREATE INDEX sub_line_book ON sub_line (node, book, npub);
CREATE TABLE sub_invoice (
    payment_hash BYTES PRIMARY KEY,
    node TEXT NOT NULL,
    npub BYTES NOT NULL,
    amount_msat BIGINT NOT NULL,
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
    -- In clear once it is paid: whoever paid has it.
    preimage BYTES,
    look_at BIGINT NOT NULL
);
CREATE INDEX sub_invoice_open ON sub_invoice (node, npub) WHERE state = 'open';
CREATE INDEX sub_invoice_look ON sub_invoice (look_at) WHERE state <> 'paid';
CREATE INDEX sub_invoice_paid ON sub_invoice (paid_at, payment_hash) WHERE state = 'paid';
-- One payment of a hash at a node at a time, whoever's: a second is taken only after the first has failed.
CREATE TABLE sub_payment (
    node TEXT NOT NULL,
    payment_hash BYTES NOT NULL,
    npub BYTES NOT NULL,
    payment_id TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    amount_msat BIGINT NOT NULL,
    hold_msat BIGINT NOT NULL,
    -- outside, agent, hosting
    payee TEXT NOT NULL,
    -- held, settled, failed
    state TEXT NOT NULL,
    fee_msat BIGINT NOT NULL,
    preimage BYTES,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (node, payment_hash)
) CLUSTERED;
CREATE INDEX sub_payment_held ON sub_payment (npub) WHERE state = 'held';
CREATE INDEX sub_payment_inside ON sub_payment (created_at) WHERE state = 'held' AND payee <> 'outside';
