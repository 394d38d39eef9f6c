-- What drivers keep of agents' wallets: ciphertext under the agent's data key. `name` is a hash that only the agent's seed leads to.
CREATE TABLE wallet_record (
    npub BYTES NOT NULL REFERENCES agent (npub),
    space TEXT NOT NULL,
    name BYTES NOT NULL,
    blob BYTES NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (npub, space, name)
) CLUSTERED;
