-- Up to when the agent's schedules were looked at, and when one of them is due next; null when none is.
ALTER TABLE agent ADD COLUMN schedules_at BIGINT;
ALTER TABLE agent ADD COLUMN next_schedule_at BIGINT;
