-- Where the agent lives now, if it has moved away: the origin that its own claim names.
ALTER TABLE agent ADD COLUMN moved_to TEXT;
