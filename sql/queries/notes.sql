-- What a replica notes of itself for whoever takes over from it.

-- name: register_noting
-- As `register`, for process $7 with the producers $8. Its former registration $5 is replaced unless others have ended it: then, or if it is gone, this is process $9 without producers.
WITH former AS (
    DELETE FROM outbox.replica
    WHERE id = $5::uuid AND ended_at IS NULL AND (process IS NULL OR process = $7::uuid)
    RETURNING process
),
is_now AS (
    SELECT CASE WHEN $5::uuid IS NULL OR EXISTS (SELECT FROM former WHERE former.process = $7::uuid)
                THEN $7::uuid ELSE $9::uuid END AS process
),
registered AS (
    INSERT INTO outbox.replica (id, name, version, started_at, lease_expires_at, draining, put_off, process, producers)
    SELECT $1::uuid, $2::text, $3::text, clock_timestamp(), clock_timestamp() + make_interval(secs => $4::float8),
           $6::text IS NOT NULL,
           CASE WHEN $6::text IS NULL THEN '{}'::jsonb
                ELSE jsonb_build_object('publish events', jsonb_build_object('since', clock_timestamp(), 'error', $6::text))
           END,
           is_now.process, CASE WHEN is_now.process = $7::uuid THEN $8::jsonb ELSE '{}' END
    FROM is_now
    RETURNING process
)
SELECT pg_current_xact_id()::text AS xid, process FROM registered;

-- name: enlist
-- Replica $1 has the producers $2 as well, unless others have ended it.
UPDATE outbox.replica SET producers = producers || $2::jsonb
WHERE id = $1::uuid AND ended_at IS NULL
RETURNING id;

-- name: dismiss
-- The producers $2 of replica $1 have nothing on its way any more.
UPDATE outbox.replica SET producers = producers - $2::text[]
WHERE id = $1::uuid AND ended_at IS NULL AND producers ?| $2::text[];

-- name: note_topics
-- Replica $1 may publish to the topics $2 from now on, from the offsets $3 on (each an array as text), unless others have ended it.
INSERT INTO outbox.tail (process, topic, offsets)
SELECT r.process, n.topic, n.offsets::bigint[]
FROM (SELECT process FROM outbox.replica WHERE id = $1::uuid AND process IS NOT NULL AND ended_at IS NULL FOR SHARE) AS r
CROSS JOIN unnest($2::text[], $3::text[]) AS n (topic, offsets)
ORDER BY n.topic
ON CONFLICT (process, topic) DO UPDATE SET offsets = excluded.offsets
RETURNING topic;

-- name: raise_tails
-- Of process $1: the topics $2 have the offsets $3 now (each an array as text).
UPDATE outbox.tail AS t SET offsets = n.offsets::bigint[]
FROM unnest($2::text[], $3::text[]) AS n (topic, offsets)
WHERE t.process = $1::uuid AND t.topic = n.topic;

-- name: forget_topics
-- Process $1 does not publish to the topics $2 any more.
DELETE FROM outbox.tail WHERE process = $1::uuid AND topic = ANY ($2::text[]);

-- name: expire
-- Replica $1 leaves without having settled everything: its lease is over now.
UPDATE outbox.replica SET lease_expires_at = clock_timestamp() - interval '1 millisecond'
WHERE id = $1::uuid AND lease_expires_at > clock_timestamp();
