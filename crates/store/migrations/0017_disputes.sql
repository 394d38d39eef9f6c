-- Jobs that were paid and not served. What proves it is sealed under the agent's view key; these columns say what is known
-- to the host anyway.
CREATE TABLE dispute (
    npub BYTES NOT NULL,
    tick_id BYTES NOT NULL,
    attempt BIGINT NOT NULL,
    provider BYTES NOT NULL,
    -- The job request's event id.
    request BYTES NOT NULL,
    payment_hash BYTES NOT NULL,
    bolt11 TEXT NOT NULL,
    amount_msat BIGINT NOT NULL,
    fee_msat BIGINT NOT NULL,
    -- None while it is not known whether the money arrived.
    paid_at BIGINT,
    -- When waiting for a result ended.
    silent_at BIGINT NOT NULL,
    -- unsettled, open, answered, settled_elsewhere, closed
    state TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    -- When relays are asked for a late result again; none: no more.
    look_at BIGINT,
    looks BIGINT NOT NULL,
    sealed BYTES NOT NULL,
    PRIMARY KEY (npub, tick_id, attempt)
) CLUSTERED;
CREATE INDEX dispute_look ON dispute (npub, look_at) WHERE look_at IS NOT NULL;
CREATE INDEX dispute_payment ON dispute (npub, payment_hash);

-- What agents experienced with providers, by week. Each agent has rows of its own, so that no two write the same one; an
-- account's is their sum. It takes the place of provider_score, which only workers of earlier releases still write.
CREATE TABLE provider_week (
    npub BYTES NOT NULL,
    provider BYTES NOT NULL,
    -- Weeks since 1970.
    week BIGINT NOT NULL,
    account_id BYTES NOT NULL,
    done BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    disputed BIGINT NOT NULL,
    answered BIGINT NOT NULL,
    PRIMARY KEY (npub, provider, week)
) CLUSTERED;
CREATE INDEX provider_week_account ON provider_week (account_id, week);
CREATE INDEX provider_week_age ON provider_week (week);
INSERT INTO provider_week (npub, provider, week, account_id, done, refused, disputed, answered)
    SELECT s.npub, s.provider, s.updated_at / 604800000, a.account_id, s.done, s.abandoned, s.disputed, 0
    FROM provider_score s JOIN agent a ON a.npub = s.npub;
