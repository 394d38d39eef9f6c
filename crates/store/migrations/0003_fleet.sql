-- Due ticks, and those that started on time, of the month (yyyymm) and of the one before in which any were due.
ALTER TABLE agent ADD COLUMN month BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agent ADD COLUMN month_due BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agent ADD COLUMN month_on_time BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agent ADD COLUMN last_month BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agent ADD COLUMN last_month_due BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agent ADD COLUMN last_month_on_time BIGINT NOT NULL DEFAULT 0;

-- Whether a worker outside its home region has it.
ALTER TABLE agent ADD COLUMN away BIGINT NOT NULL DEFAULT 0;
CREATE INDEX agent_away ON agent (npub) WHERE away = 1;
