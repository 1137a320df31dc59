-- Erasing events: what it would meet, and how people ask for it.

-- name: erasable
-- The events with ids $1 (null: any), of key $2 and topic $3 (null: any), by topic and state: how many, the first one, their lanes, and how many have no key.
SELECT e.topic, e.state, count(*) AS events, min(e.id) AS first_id, array_agg(DISTINCT e.lane ORDER BY e.lane) AS lanes,
       count(*) FILTER (WHERE e.key IS NULL) AS keyless
FROM outbox.erasable($1::bigint[], $2::bytea, $3::text) AS e
GROUP BY e.topic, e.state
ORDER BY e.topic, e.state;

-- name: erasable_scheduled
-- The scheduled events with event_ids $1, or of key $2 and topic $3 (null: any): how many.
SELECT count(*) AS events
FROM outbox.scheduled AS s
WHERE (s.event_id = ANY ($1::uuid[]) OR s.key = $2::bytea) AND ($3::text IS NULL OR s.topic = $3::text);

-- name: owners_of
-- Of lanes $1, those that a live replica owns, and its name.
SELECT l.lane, r.name
FROM outbox.lane AS l
JOIN outbox.replica AS r ON r.id = l.owner AND r.lease_expires_at > clock_timestamp()
WHERE l.lane = ANY ($1::smallint[])
ORDER BY l.lane;

-- name: erase_session
-- For one transaction that erases: a key may have many events.
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '30min';

-- name: erase
-- Erase events with ids $1, or of key $2 and topic $3, and scheduled ones $4: those that are not delivered only if $5, with a tombstone in place of pending ones if $6; recorded as $7, reason $8, who on which machine $9.
SELECT e.action, e.events, e.discarded, e.cancelled, e.segments
FROM outbox.erase($1::bigint[], $2::bytea, $3::text, $4::uuid[], $5::boolean, $6::boolean, $7::jsonb, $8::text, $9::text) AS e;

-- name: may_vacuum
-- Whether who asks owns the outbox.
SELECT outbox.owns_outbox();
