-- What PostgreSQL needs beside the common schema: functions that SQLite gets from the program, and how tables are kept.

-- One step of an agent's hash chain.
CREATE FUNCTION chain(bytea, bytea) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT sha256($1 || $2)';

-- Raised by a statement whose expectation was not met.
CREATE FUNCTION refuse() RETURNS bigint LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'NX001', MESSAGE = 'refused'; END $$;

-- Each writer has a row of commit_marker; 1 is SQLite's.
CREATE SEQUENCE writer START 2;

-- Sealed bytes do not compress.
ALTER TABLE journal ALTER COLUMN blob SET STORAGE EXTERNAL;
ALTER TABLE agent_state ALTER COLUMN blob SET STORAGE EXTERNAL;
ALTER TABLE inbox ALTER COLUMN payload SET STORAGE EXTERNAL;
ALTER TABLE tick ALTER COLUMN sealed SET STORAGE EXTERNAL;
ALTER TABLE event ALTER COLUMN sealed SET STORAGE EXTERNAL;

-- Rows that change often find room for their next version on the same page.
ALTER TABLE agent SET (fillfactor = 60);
ALTER TABLE budget SET (fillfactor = 60);
ALTER TABLE worker SET (fillfactor = 20);
ALTER TABLE commit_marker SET (fillfactor = 20);
ALTER TABLE counter SET (fillfactor = 20);

-- Tables whose rows come and go with each tick: dead rows are a share of the traffic, not of the table.
ALTER TABLE journal SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100000);
ALTER TABLE commit_marker SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
