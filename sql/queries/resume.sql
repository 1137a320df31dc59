-- name: due_failures
-- Failures of lanes $1 whose time has come: replayed by a person, or to be retried now. At most $2 in id order, not those of topics $3.
SELECT e.lane, e.id, e.event_id, e.topic, e.key, e.payload, e.headers::text AS headers, e.type,
       (date_part('epoch', e.created_at) * 1000)::bigint AS created_ms,
       octet_length(coalesce(e.payload, '')) + octet_length(coalesce(e.key, '')) + pg_column_size(e.headers) AS size,
       f.attempts
FROM (SELECT f.lane, f.id, f.attempts
      FROM outbox.failure AS f
      WHERE f.lane = ANY ($1::smallint[]) AND f.topic <> ALL ($3::text[])
        AND (f.state = 'replaying' OR (f.state = 'retrying' AND f.next_attempt_at <= clock_timestamp()))
        AND NOT EXISTS (SELECT FROM unnest($4::smallint[], $5::bigint[]) AS r (lane, id) WHERE r.lane = f.lane AND r.id = f.id)
      ORDER BY f.id
      LIMIT $2::int) AS f
JOIN outbox.event AS e ON e.lane = f.lane AND e.id = f.id
ORDER BY e.id;

-- name: blocking
-- What is closed in lanes $1: keys behind a failure that is not resolved, and (key null) topics that have held rows.
SELECT f.lane, f.topic, f.key
FROM outbox.failure AS f
WHERE f.lane = ANY ($1::smallint[]) AND f.key IS NOT NULL
  AND (f.state IN ('retrying', 'replaying') OR (f.state = 'failed' AND f.policy = 'block'))
UNION ALL
SELECT h.lane, h.topic, NULL
FROM (SELECT DISTINCT held.lane, held.topic FROM outbox.held AS held WHERE held.lane = ANY ($1::smallint[])) AS h;

-- name: has_failures
-- Whether lanes $1 have failures that may have to be acted on.
SELECT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = ANY ($1::smallint[]) AND f.state <> 'discarded');

-- name: held_events
-- Held events of lane $1 above id $2 that nothing in the tables blocks, in id order: at most $3 rows and about $4 bytes, not those of topics $5.
SELECT found.lane, found.id, found.event_id, found.topic, found.key, found.payload, found.headers::text AS headers,
       found.type, (date_part('epoch', found.created_at) * 1000)::bigint AS created_ms, found.size
FROM (SELECT e.*, sum(e.size) OVER (ORDER BY e.id ROWS UNBOUNDED PRECEDING) - e.size AS bytes_before
      FROM (SELECT event.*,
                   octet_length(coalesce(event.payload, '')) + octet_length(coalesce(event.key, ''))
                   + pg_column_size(event.headers) AS size
            FROM (SELECT h.lane, h.id
                  FROM outbox.held AS h
                  WHERE h.lane = $1::smallint AND h.id > $2::bigint AND h.topic <> ALL ($5::text[])
                    AND NOT EXISTS (SELECT FROM outbox.failure AS f
                                    WHERE f.lane = h.lane AND f.topic = h.topic AND f.key = h.key
                                      AND (f.state IN ('retrying', 'replaying')
                                           OR (f.state = 'failed' AND f.policy = 'block')))
                  ORDER BY h.id
                  LIMIT $3::int) AS h
            JOIN outbox.event AS event ON event.lane = h.lane AND event.id = h.id
            ORDER BY event.id) AS e) AS found
WHERE found.bytes_before < $4::bigint;
