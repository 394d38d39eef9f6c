-- A state that is too large for its row is an object of this hash and size; the row's own bytes are empty then.
ALTER TABLE agent_state ADD COLUMN object BYTES;
ALTER TABLE agent_state ADD COLUMN object_size BIGINT;

-- The same for what people may read of a tick.
ALTER TABLE tick ADD COLUMN object BYTES;
ALTER TABLE tick ADD COLUMN object_size BIGINT;
CREATE INDEX tick_object ON tick (npub, object) WHERE object IS NOT NULL;

-- Every object that was ever promised, until it is deleted: kept while dropped_at is null. Claimed: about to be deleted.
CREATE TABLE blob (
    npub BYTES NOT NULL,
    hash BYTES NOT NULL,
    size BIGINT NOT NULL,
    dropped_at BIGINT,
    claimed BIGINT NOT NULL,
    PRIMARY KEY (npub, hash)
) CLUSTERED;
CREATE INDEX blob_dropped ON blob (dropped_at) WHERE claimed = 0 AND dropped_at IS NOT NULL;
CREATE INDEX blob_claimed ON blob (npub, hash) WHERE claimed = 1;
