-- Times are milliseconds since 1970, amounts millisats, flags 0 or 1. BYTES, SERIAL and CLUSTERED are the dialect's.

CREATE TABLE commit_marker (id BIGINT PRIMARY KEY, value BIGINT NOT NULL);
INSERT INTO commit_marker (id, value) VALUES (1, 0);

CREATE TABLE installation (
    id BIGINT PRIMARY KEY,
    installation TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE installation_value (name TEXT PRIMARY KEY, value TEXT NOT NULL);

-- Numbers that only grow. 'desired_rev' orders everything that workers must hear of.
CREATE TABLE counter (name TEXT PRIMARY KEY, value BIGINT NOT NULL);
INSERT INTO counter (name, value) VALUES ('desired_rev', 0);

CREATE TABLE account (
    account_id BYTES PRIMARY KEY,
    owner BYTES NOT NULL,
    name TEXT NOT NULL,
    plan TEXT NOT NULL,
    hosting TEXT NOT NULL,
    created_at BIGINT NOT NULL
) CLUSTERED;
CREATE UNIQUE INDEX account_owner ON account (owner);

CREATE TABLE member (
    account_id BYTES NOT NULL,
    npub BYTES NOT NULL,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account_id, npub)
) CLUSTERED;
CREATE INDEX member_npub ON member (npub);

CREATE TABLE token (
    token_id TEXT PRIMARY KEY,
    account_id BYTES NOT NULL,
    hash BYTES NOT NULL,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    last_used_at BIGINT
) CLUSTERED;
CREATE UNIQUE INDEX token_hash ON token (hash);
CREATE INDEX token_account ON token (account_id, created_at);

CREATE TABLE replay (
    kind TEXT NOT NULL,
    id BYTES NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
) CLUSTERED;
CREATE INDEX replay_expiry ON replay (expires_at);

CREATE TABLE ticket (hash BYTES PRIMARY KEY, body TEXT NOT NULL, expires_at BIGINT NOT NULL) CLUSTERED;
CREATE INDEX ticket_expiry ON ticket (expires_at);

CREATE TABLE idempotency (
    account_id BYTES NOT NULL,
    route TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    request BYTES NOT NULL,
    status BIGINT NOT NULL,
    body TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (account_id, route, idempotency_key)
) CLUSTERED;
CREATE INDEX idempotency_expiry ON idempotency (expires_at);

CREATE TABLE audit (
    id SERIAL,
    at BIGINT NOT NULL,
    account_id BYTES,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX audit_account ON audit (account_id, id);

CREATE TABLE worker (
    worker_id BYTES PRIMARY KEY,
    region TEXT NOT NULL,
    pool TEXT NOT NULL,
    capacity BIGINT NOT NULL,
    version BIGINT NOT NULL,
    incarnation BIGINT NOT NULL,
    beat BIGINT NOT NULL,
    draining BIGINT NOT NULL,
    dead BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
) CLUSTERED;

-- A row apart from the beat, so that holding it shared never waits for one.
CREATE TABLE worker_fence (worker_id BYTES PRIMARY KEY, incarnation BIGINT NOT NULL) CLUSTERED;

CREATE TABLE reconciler (
    id BIGINT PRIMARY KEY,
    term BIGINT NOT NULL,
    holder TEXT NOT NULL,
    beat BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);
INSERT INTO reconciler (id, term, holder, beat, seen_at) VALUES (1, 0, '', 0, 0);

CREATE TABLE agent (
    npub BYTES PRIMARY KEY,
    account_id BYTES NOT NULL,
    name TEXT NOT NULL,
    config TEXT NOT NULL,
    config_version BIGINT NOT NULL,
    region TEXT,
    pool TEXT NOT NULL,
    reader_version BIGINT NOT NULL,
    desired TEXT NOT NULL,
    desired_rev BIGINT NOT NULL,
    stop_now BIGINT NOT NULL,
    custody TEXT NOT NULL,
    lifecycle TEXT NOT NULL,
    lifecycle_since BIGINT NOT NULL,
    hosting TEXT NOT NULL,
    placement TEXT NOT NULL,
    purpose TEXT NOT NULL,
    worker_id BYTES,
    placed_incarnation BIGINT,
    prev_worker_id BYTES,
    last_worker_id BYTES,
    generation BIGINT NOT NULL,
    reason_code TEXT,
    reason_text TEXT,
    next_attempt_at BIGINT,
    next_tick_at BIGINT,
    last_tick_at BIGINT,
    balance_msat BIGINT,
    balance_at BIGINT,
    policy_version BIGINT,
    last_quote_msat BIGINT,
    event_seq BIGINT NOT NULL,
    event_head BYTES NOT NULL,
    pruned_seq BIGINT NOT NULL,
    pruned_head BYTES NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
) CLUSTERED;
CREATE UNIQUE INDEX agent_name ON agent (account_id, name);
CREATE INDEX agent_account ON agent (account_id, npub);
CREATE INDEX agent_worker ON agent (worker_id, desired_rev);
CREATE INDEX agent_prev_worker ON agent (prev_worker_id, desired_rev) WHERE prev_worker_id IS NOT NULL;
CREATE INDEX agent_stopping ON agent (npub) WHERE desired = 'stopped' AND worker_id IS NOT NULL;

CREATE TABLE agent_label (
    npub BYTES NOT NULL,
    label TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (npub, label)
) CLUSTERED;

CREATE TABLE agent_sealed (
    npub BYTES PRIMARY KEY,
    mnemonic_encrypted TEXT NOT NULL,
    sealed_key TEXT,
    policy TEXT,
    policy_version BIGINT,
    claim TEXT,
    inbox_recipient TEXT
) CLUSTERED;

CREATE TABLE agent_wrap (
    npub BYTES NOT NULL,
    wrapped TEXT NOT NULL,
    number BIGINT NOT NULL,
    recipient TEXT NOT NULL,
    ciphertext TEXT NOT NULL,
    PRIMARY KEY (npub, wrapped, number, recipient)
) CLUSTERED;

CREATE TABLE agent_state (
    npub BYTES PRIMARY KEY,
    version BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    blob BYTES NOT NULL,
    at BIGINT NOT NULL
) CLUSTERED;

CREATE TABLE inbox (
    id SERIAL,
    npub BYTES NOT NULL,
    class TEXT NOT NULL,
    external_id TEXT NOT NULL,
    cause TEXT NOT NULL,
    sender BYTES,
    received_at BIGINT NOT NULL,
    payload BYTES NOT NULL,
    bytes BIGINT NOT NULL,
    tick_id BYTES,
    handled BIGINT NOT NULL,
    note TEXT
);
CREATE UNIQUE INDEX inbox_key ON inbox (npub, class, external_id);
CREATE INDEX inbox_open ON inbox (npub, id, bytes) WHERE handled = 0;
CREATE INDEX inbox_done ON inbox (received_at) WHERE handled = 1;

CREATE TABLE tick (
    tick_id BYTES PRIMARY KEY,
    npub BYTES NOT NULL,
    cause TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT,
    generation BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT,
    cost_msat BIGINT NOT NULL,
    actions TEXT NOT NULL,
    steps TEXT NOT NULL,
    sealed BYTES
);
CREATE INDEX tick_history ON tick (npub, tick_id);
CREATE UNIQUE INDEX tick_open ON tick (npub) WHERE status = 'open';

CREATE TABLE journal (
    tick_id BYTES NOT NULL,
    seq BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    kind TEXT NOT NULL,
    version BIGINT NOT NULL,
    idem_class TEXT NOT NULL,
    digest BYTES NOT NULL,
    blob BYTES NOT NULL,
    PRIMARY KEY (tick_id, seq)
);

CREATE TABLE budget (
    npub BYTES NOT NULL,
    win TEXT NOT NULL,
    held_msat BIGINT NOT NULL,
    settled_msat BIGINT NOT NULL,
    PRIMARY KEY (npub, win)
) CLUSTERED;

CREATE TABLE payment (
    npub BYTES NOT NULL,
    hash BYTES NOT NULL,
    step TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bolt11 TEXT NOT NULL,
    amount_msat BIGINT NOT NULL,
    max_fee_msat BIGINT NOT NULL,
    fee_msat BIGINT NOT NULL,
    state TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    dispatched_by BIGINT,
    tick_id BYTES,
    windows TEXT NOT NULL,
    payee BYTES,
    preimage BYTES,
    note TEXT,
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (npub, hash)
) CLUSTERED;
CREATE UNIQUE INDEX payment_step ON payment (npub, step) WHERE state NOT IN ('failed', 'canceled');
CREATE INDEX payment_open ON payment (npub, created_at)
    WHERE state IN ('reserved', 'dispatched', 'pending', 'unknown');
CREATE INDEX payment_history ON payment (npub, created_at);

CREATE TABLE event (
    id SERIAL,
    npub BYTES NOT NULL,
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    body TEXT NOT NULL,
    sealed BYTES,
    hash BYTES NOT NULL,
    relayed BIGINT NOT NULL
);
CREATE UNIQUE INDEX event_seq ON event (npub, seq);
CREATE INDEX event_outbox ON event (id) WHERE relayed = 0;

CREATE TABLE publication (
    npub BYTES NOT NULL,
    event_id BYTES NOT NULL,
    kind BIGINT NOT NULL,
    json TEXT NOT NULL,
    relays TEXT NOT NULL,
    tick_id BYTES,
    done BIGINT NOT NULL,
    results TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    next_attempt_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (npub, event_id)
) CLUSTERED;
CREATE INDEX publication_due ON publication (next_attempt_at) WHERE done = 0;
CREATE INDEX publication_pending ON publication (npub, created_at) WHERE done = 0;
CREATE INDEX publication_done ON publication (created_at) WHERE done = 1;

CREATE TABLE wallet_request (
    request_id TEXT PRIMARY KEY,
    npub BYTES NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    outcome TEXT,
    answer TEXT
) CLUSTERED;
CREATE INDEX wallet_request_waiting ON wallet_request (npub, created_at) WHERE outcome IS NULL;
CREATE INDEX wallet_request_expiry ON wallet_request (expires_at);

CREATE TABLE provider_score (
    npub BYTES NOT NULL,
    provider BYTES NOT NULL,
    done BIGINT NOT NULL,
    abandoned BIGINT NOT NULL,
    disputed BIGINT NOT NULL,
    latency_ms BIGINT NOT NULL,
    price_msat BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (npub, provider)
) CLUSTERED;

CREATE TABLE relay_event (
    position SERIAL,
    id BYTES NOT NULL,
    pubkey BYTES NOT NULL,
    kind BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    slot TEXT,
    expires_at BIGINT,
    json TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    received_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX relay_event_id ON relay_event (id);
-- One event for each replaceable address: slot is '' for replaceable kinds, the d tag for addressable ones.
CREATE UNIQUE INDEX relay_event_slot ON relay_event (pubkey, kind, slot) WHERE slot IS NOT NULL;
CREATE INDEX relay_event_time ON relay_event (created_at, id);
CREATE INDEX relay_event_author ON relay_event (pubkey, kind, created_at);
CREATE INDEX relay_event_kind ON relay_event (kind, created_at);
CREATE INDEX relay_event_expiry ON relay_event (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE relay_tag (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    event_id BYTES NOT NULL,
    PRIMARY KEY (name, value, created_at, event_id)
) CLUSTERED;
CREATE INDEX relay_tag_event ON relay_tag (event_id);

-- What an author deleted (NIP-09) stays away. For an address, until is the newest created_at that is gone.
CREATE TABLE relay_deleted (pubkey BYTES NOT NULL, id BYTES NOT NULL, at BIGINT NOT NULL, PRIMARY KEY (pubkey, id)) CLUSTERED;
CREATE TABLE relay_deleted_slot (
    pubkey BYTES NOT NULL,
    kind BIGINT NOT NULL,
    slot TEXT NOT NULL,
    until BIGINT NOT NULL,
    PRIMARY KEY (pubkey, kind, slot)
) CLUSTERED;
