-- name: migration_lock
-- Held to the end of the transaction: one `relay migrate` at a time, each outbox for itself.
SELECT pg_advisory_xact_lock(hashtextextended('outbox.migration', 0));

-- name: schema_exists
-- Whether the outbox's own list of migrations is there, whether its name needs no quoting, and what server this is.
SELECT to_regclass('outbox.migration') IS NOT NULL AS has_migrations,
       quote_ident('outbox') = 'outbox' AS usable_name,
       current_setting('server_version_num')::int AS server_version;

-- name: applied_migrations
-- What has been applied, in order. Through JSON, because the last column comes with migration 2.
SELECT m.version, m.name, m.checksum,
       coalesce((to_jsonb(m) ->> 'compatible_from')::int, m.version) AS compatible_from
FROM outbox.migration AS m
ORDER BY m.version;

-- name: record_migration
-- Record version $1, name $2, checksum $3 as applied; the schema then works with programs from version $4. Through
-- JSON, because the last column comes with migration 2.
INSERT INTO outbox.migration
SELECT (jsonb_populate_record(
    NULL::outbox.migration,
    jsonb_build_object('version', $1::int, 'name', $2::text, 'checksum', $3::text,
                       'applied_at', clock_timestamp(), 'compatible_from', $4::int)
)).*;

-- name: max_event_bytes
-- The limit on an event's size.
SELECT outbox.max_event_bytes();

-- name: set_max_event_bytes
-- Change the limit on an event's size to $1 bytes; fails at once when the tables are busy.
SELECT outbox.set_max_event_bytes($1::bigint);

-- name: in_recovery
-- Whether this server is a standby or recovering from a crash.
SELECT pg_is_in_recovery();

-- name: sequence_state
-- What makes ids safe to scan by: the sequence's options, and how far it, the events and the positions are. One
-- statement, so that every id it sees was taken before it reads the sequence.
SELECT s.seqcache AS cache, s.seqincrement AS increment, s.seqcycle AS cycle,
       coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS reached,
       (SELECT max(l.position) FROM outbox.lane AS l) AS highest_position,
       coalesce((
           SELECT max(e.id)
           FROM outbox.lane AS l
           CROSS JOIN LATERAL (
               SELECT event.id FROM outbox.event AS event WHERE event.lane = l.lane ORDER BY event.id DESC LIMIT 1
           ) AS e
       ), 0) AS highest_id
FROM pg_catalog.pg_sequence AS s
WHERE s.seqrelid = 'outbox.event_id'::regclass;
