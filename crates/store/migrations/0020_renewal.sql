-- Hosting that renews itself out of its owner's own wallet: one payment of an account at a time.
CREATE TABLE renewal (
    account_id BYTES PRIMARY KEY,
    -- Closed under the operator's key; null once the owner has taken it back.
    connection BYTES,
    -- The wallet's public key, in hex.
    wallet TEXT NOT NULL,
    -- Largest sum of a UTC month, fees included.
    cap_msat BIGINT NOT NULL CHECK (cap_msat >= 0),
    enabled BIGINT NOT NULL,
    -- Raised with everything that the owner says.
    version BIGINT NOT NULL,
    -- The UTC month that is counted, and what was spent in it, with what is held for the payment under way.
    month TEXT NOT NULL,
    spent_msat BIGINT NOT NULL CHECK (spent_msat >= 0),
    -- none, begun: an invoice is noted; sent: the wallet was asked, or may have been; paid: it says so, and no credit came yet
    stage TEXT NOT NULL,
    payment_hash BYTES,
    held_msat BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    problem TEXT,
    look_at BIGINT NOT NULL
);
CREATE INDEX renewal_look ON renewal (look_at) WHERE enabled = 1 OR stage <> 'none';
-- What drivers of wallets keep that control speaks to; closed under the operator's key.
CREATE TABLE operator_record (
    scope TEXT NOT NULL,
    space TEXT NOT NULL,
    name BYTES NOT NULL,
    blob BYTES NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (scope, space, name)
) CLUSTERED;
