-- Events that are to come: moved into the outbox when they are due.

-- name: move_due
-- Move about $4 events that are due into the outbox, of those of lanes $2 that replica $1 owns at epochs $3, without those with ids $5.
SELECT moved, waiting, next_seconds
FROM outbox.move_due($1::uuid, $2::smallint[], $3::bigint[], $4::int, $5::bigint[]);

-- name: first_due
-- The event of lane $1 that is moved next, without those with ids $2: its id, and its topic.
SELECT s.id, s.topic
FROM outbox.scheduled AS s
WHERE s.lane = $1::smallint AND s.deliver_at <= statement_timestamp() AND s.id <> ALL ($2::bigint[])
ORDER BY s.deliver_at, s.id
LIMIT 1;

-- name: count_scheduled
-- Events that are to come in lanes $1.
SELECT count(*) FROM outbox.scheduled WHERE lane = ANY ($1::smallint[]);

-- name: list_scheduled
-- Scheduled events, the first that is due first: topic like $1, key $2, timer like $3, at most $4.
SELECT s.event_id, s.lane, s.topic, s.key, s.type, s.timer, s.deliver_at,
       extract(epoch FROM s.deliver_at - clock_timestamp())::float8 AS due_seconds,
       coalesce(octet_length(s.payload), 0) AS payload_bytes
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT e.*
    FROM outbox.scheduled AS e
    WHERE e.lane = l.lane
      AND ($1::text IS NULL OR e.topic LIKE $1)
      AND ($2::bytea IS NULL OR e.key = $2)
      AND ($3::text IS NULL OR e.timer LIKE $3)
    ORDER BY e.deliver_at, e.id
    LIMIT $4::int
) AS s
ORDER BY s.deliver_at, s.id
LIMIT $4::int;

-- name: scheduled_event
-- The scheduled event with event_id $1, or timer $2: all that is known of it, with the first $3 bytes of its payload.
SELECT s.event_id, s.lane, s.topic, s.key, s.type, s.timer, s.deliver_at,
       extract(epoch FROM s.deliver_at - clock_timestamp())::float8 AS due_seconds,
       coalesce(octet_length(s.payload), 0) AS payload_bytes,
       s.created_at, extract(epoch FROM clock_timestamp() - s.created_at)::float8 AS created_seconds,
       s.headers::text AS headers, substring(s.payload FROM 1 FOR $3::int) AS payload
FROM outbox.scheduled AS s
WHERE s.event_id = $1::uuid OR s.timer = $2::text;

-- name: cancel_by_id
-- Cancel the scheduled events with ids $1; those that were still to come.
SELECT c.event_id FROM unnest($1::uuid[]) AS c (event_id) WHERE outbox.cancel_scheduled(c.event_id);

-- name: record_cancelled
-- Record that $1 scheduled events were cancelled (filter $2, reason $3, who on which machine $4).
INSERT INTO outbox.action (kind, filter, reason, requested_by, finished_at, counts)
VALUES ('cancel', $2::jsonb, $3::text, session_user || ' (' || $4::text || ')', clock_timestamp(),
        jsonb_build_object('events', $1::bigint))
RETURNING id;
