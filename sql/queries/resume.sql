-- name: due_failures
-- Failures of lanes $1 whose time has come: replayed by a person, or to be retried now. In id order, at most $2 and about $3 bytes, not those of topics $4 and not (lane, id) of $5 and $6.
SELECT found.lane, found.id, found.event_id, found.topic, found.key, found.payload, found.headers::text AS headers,
       found.type, least(greatest(date_part('epoch', found.created_at) * 1000, 0), 253402300799999)::bigint AS created_ms, found.size, found.attempts
FROM (SELECT e.*, sum(e.size) OVER (ORDER BY e.id ROWS UNBOUNDED PRECEDING) - e.size AS bytes_before
      FROM (SELECT event.*, f.attempts,
                   octet_length(coalesce(event.payload, '')) + octet_length(coalesce(event.key, ''))
                   + pg_column_size(event.headers) AS size
            FROM (SELECT f.lane, f.id, f.attempts
                  FROM outbox.failure AS f
                  WHERE f.lane = ANY ($1::smallint[]) AND f.topic <> ALL ($4::text[])
                    AND (f.state = 'replaying' OR (f.state = 'retrying' AND f.next_attempt_at <= clock_timestamp()))
                    AND NOT EXISTS (SELECT
                                    FROM unnest($5::smallint[], $6::bigint[]) AS r (lane, id)
                                    WHERE r.lane = f.lane AND r.id = f.id)
                  ORDER BY f.id
                  LIMIT $2::int) AS f
            JOIN outbox.event AS event ON event.lane = f.lane AND event.id = f.id
            ORDER BY event.id) AS e) AS found
WHERE found.bytes_before < $3::bigint;

-- name: still_unreadable
-- Of lanes $1, the events that were to be published again and cannot be read: they have failed once more, with detail $2.
UPDATE outbox.failure AS f
SET state = 'failed', next_attempt_at = NULL, failed_at = clock_timestamp(), attempts = f.attempts + 1, detail = $2::text
WHERE f.lane = ANY ($1::smallint[]) AND f.state IN ('retrying', 'replaying') AND f.error = 'UnreadableEvent'
RETURNING f.id;

-- name: blocking
-- The keys of lanes $1 that are closed: those behind a failure that is not resolved.
SELECT f.lane, f.topic, f.key
FROM outbox.failure AS f
WHERE f.lane = ANY ($1::smallint[]) AND f.key IS NOT NULL
  AND (f.state IN ('retrying', 'replaying') OR (f.state = 'failed' AND f.policy = 'block'));

-- name: held_topics
-- The topics of lanes $1 that have held rows.
SELECT DISTINCT h.lane, h.topic FROM outbox.held AS h WHERE h.lane = ANY ($1::smallint[]);

-- name: has_failures
-- Whether lanes $1 have failures that may have to be acted on.
SELECT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = ANY ($1::smallint[]) AND f.state <> 'discarded');

-- name: held_events
-- Held events of lane $1 above id $2 that nothing in the tables blocks, in id order: at most $3 rows and about $4 bytes, not those of topics $5.
-- OFFSET 0: what blocks is looked up for each by its key (by the hash that the index has; a key is in one lane). Planned while there were no failures, a join would read all of the lane for each.
SELECT found.lane, found.id, found.event_id, found.topic, found.key, found.payload, found.headers::text AS headers,
       found.type, least(greatest(date_part('epoch', found.created_at) * 1000, 0), 253402300799999)::bigint AS created_ms, found.size
FROM (SELECT e.*, sum(e.size) OVER (ORDER BY e.id ROWS UNBOUNDED PRECEDING) - e.size AS bytes_before
      FROM (SELECT event.*,
                   octet_length(coalesce(event.payload, '')) + octet_length(coalesce(event.key, ''))
                   + pg_column_size(event.headers) AS size
            FROM (SELECT h.lane, h.id
                  FROM outbox.held AS h
                  WHERE h.lane = $1::smallint AND h.id > $2::bigint AND h.topic <> ALL ($5::text[])
                    AND NOT EXISTS (SELECT FROM outbox.failure AS f
                                    WHERE f.topic = h.topic AND sha256(f.key) = sha256(h.key) AND f.key = h.key
                                      AND (f.state IN ('retrying', 'replaying')
                                           OR (f.state = 'failed' AND f.policy = 'block'))
                                    OFFSET 0)
                  ORDER BY h.id
                  LIMIT $3::int) AS h
            JOIN outbox.event AS event ON event.lane = h.lane AND event.id = h.id
            ORDER BY event.id) AS e) AS found
WHERE found.bytes_before < $4::bigint;
