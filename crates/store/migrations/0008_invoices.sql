-- Invoices of agents' wallets that may be paid any moment: looked up until they are paid or over.
CREATE TABLE invoice_watch (
    npub BYTES NOT NULL,
    payment_hash BYTES NOT NULL,
    made_at BIGINT NOT NULL,
    until_at BIGINT NOT NULL,
    PRIMARY KEY (npub, payment_hash)
) CLUSTERED;
CREATE INDEX invoice_watch_until ON invoice_watch (until_at);
