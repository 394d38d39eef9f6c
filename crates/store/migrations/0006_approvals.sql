-- Actions that wait, or waited, for an owner: what may be shown of them. What is obeyed is in the agent's encrypted state.
CREATE TABLE approval (
    npub BYTES NOT NULL,
    tick_id BYTES NOT NULL,
    place BIGINT NOT NULL,
    kind TEXT NOT NULL,
    amount_msat BIGINT,
    digest BYTES NOT NULL,
    request BYTES,
    state TEXT NOT NULL,
    ended TEXT,
    requested_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    sealed BYTES NOT NULL,
    PRIMARY KEY (npub, tick_id, place)
) CLUSTERED;
CREATE INDEX approval_approved ON approval (npub) WHERE state = 'approved';
CREATE INDEX approval_expiry ON approval (expires_at);
