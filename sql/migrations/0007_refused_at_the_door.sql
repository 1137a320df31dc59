-- What could not be published later is refused when it is written, and every key can be recorded as failed.
-- Runs with programs from version 1.

-- The first lock keeps writers out for an instant. While others use the table, give up soon: `relay migrate` tries again.
SET LOCAL lock_timeout = '50ms';

-- NOT VALID: rows that are there stay, and no writer waits until all are checked.
ALTER TABLE outbox.event
    DROP CONSTRAINT event_headers,
    -- An object of strings, as before. Names that begin with outbox- are the relay's own: a consumer would take a
    -- writer's for it. At most 256 headers and 32,768 bytes (as JSON text) of them.
    -- Written for speed: most events have no headers, the text hardly ever has '"outbox-', and what is smaller than
    -- 2,000 bytes is within both bounds.
    ADD CONSTRAINT event_headers CHECK (
        headers = '{}'::jsonb OR (
            jsonb_typeof(headers) = 'object'
            -- strict: in lax mode the filter looks into arrays, and {"a": ["b"]} would pass.
            AND NOT jsonb_path_exists(headers, 'strict $.* ? (@.type() != "string")', '{}', true)
            AND (strpos(headers::text, '"outbox-') = 0
                 OR NOT jsonb_path_exists(headers, 'strict $.keyvalue() ? (@.key starts with "outbox-")', '{}', true))
            AND (pg_column_size(headers) < 2000
                 OR (octet_length(headers::text) <= 32768
                     AND jsonb_array_length(jsonb_path_query_array(headers, 'strict $.*', '{}', true)) <= 256))
        )
    ) NOT VALID,
    -- A date that every client can read. The relay reads others, too, as the nearest of these.
    ADD CONSTRAINT event_created_at CHECK (
        created_at >= '1970-01-01 00:00:00+00' AND created_at < '10000-01-01 00:00:00+00'
    ) NOT VALID;

-- A database with the encoding SQL_ASCII takes any byte as text, and hands it out as it is; nobody who expects UTF-8 can
-- read that. There, convert_to() does not convert, but refuses what is no UTF-8.
DO $$
BEGIN
    IF current_setting('server_encoding') = 'SQL_ASCII' THEN
        ALTER TABLE outbox.event ADD CONSTRAINT event_utf8 CHECK (
            convert_to(headers::text, 'UTF8') IS NOT NULL AND (type IS NULL OR convert_to(type, 'UTF8') IS NOT NULL)
        ) NOT VALID;
    END IF;
END
$$;

-- By the key's hash: an entry of an index holds 2,700 bytes, and the failure of an event with a longer key, if that could
-- not be compressed, could not be recorded. Without the lane, which follows from the key: the planner has no other index
-- for those who ask by topic and key.
DROP INDEX outbox.failure_key;
CREATE INDEX failure_key ON outbox.failure (topic, sha256(key));

-- With a publication FOR ALL TABLES, PostgreSQL 18 lets nobody delete from a table whose primary key has a generated
-- column, as the lane is; and add_segment moves what it finds here. With event_id, so that no INSERT can fail for it.
CREATE UNIQUE INDEX event_default_identity ON outbox.event_default (id, event_id);
ALTER TABLE outbox.event_default REPLICA IDENTITY USING INDEX event_default_identity;
