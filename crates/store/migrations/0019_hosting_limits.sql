-- As the account's plan has it; null for no bound, and for the host's own retention.
ALTER TABLE agent ADD COLUMN state_kib BIGINT;
ALTER TABLE agent ADD COLUMN retention_days BIGINT;
-- Invoices of the origin `rent`, which are for one agent's next month (`<start>:<number>`), which its own wallet pays; and whether what came was
-- charged. Until then no other month is taken from it.
ALTER TABLE hosting_invoice ADD COLUMN npub BYTES;
ALTER TABLE hosting_invoice ADD COLUMN rent_month TEXT;
ALTER TABLE hosting_invoice ADD COLUMN rent_policy BIGINT;
ALTER TABLE hosting_invoice ADD COLUMN used BIGINT NOT NULL DEFAULT 0;
CREATE INDEX hosting_invoice_rent ON hosting_invoice (npub, created_at) WHERE npub IS NOT NULL;
CREATE INDEX hosting_invoice_kept ON hosting_invoice (account_id) WHERE npub IS NOT NULL AND used = 0;
-- Credit on its way back to the account, out of the operator's node.
CREATE TABLE hosting_payout (
    payment_hash BYTES PRIMARY KEY,
    account_id BYTES NOT NULL REFERENCES account (account_id),
    bolt11 TEXT NOT NULL,
    amount_msat BIGINT NOT NULL,
    max_fee_msat BIGINT NOT NULL,
    fee_msat BIGINT NOT NULL,
    -- As of payments.
    state TEXT NOT NULL,
    -- The payer that sent it.
    dispatched_by BYTES,
    -- What the payer believes: signed by the control plane.
    signed_order TEXT NOT NULL,
    note TEXT,
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    look_at BIGINT NOT NULL
);
CREATE INDEX hosting_payout_account ON hosting_payout (account_id, created_at);
CREATE INDEX hosting_payout_look ON hosting_payout (look_at) WHERE state NOT IN ('settled', 'failed', 'canceled');
