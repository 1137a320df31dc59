-- What `relay export` reads: events by ranges of ids, none of which is larger than what fits into memory.
--
-- Where a statement takes a filter, it is: topic $3 as a LIKE pattern, key $4, written from $5 to $6; null means any. $7:
-- only events that have a failure or are held back.

-- name: export_next
-- The first id above $1 that an event has; null if there is none.
SELECT min(first.id) AS id
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT e.id FROM outbox.event AS e WHERE e.lane = l.lane AND e.id > $1::bigint ORDER BY e.id LIMIT 1
) AS first;

-- name: export_from
-- Where to begin if only some states are meant: the lowest position, and the ids before the first failure and held row.
SELECT (SELECT min(l.position) FROM outbox.lane AS l) AS pending,
       least((SELECT min(f.id) FROM outbox.failure AS f), (SELECT min(h.id) FROM outbox.held AS h)) - 1 AS unresolved;

-- name: export_sizes
-- The events that match with $1 < id <= $2, in id order: id and bytes.
SELECT e.id, coalesce(octet_length(e.payload), 0) + coalesce(octet_length(e.key), 0) + octet_length(e.headers::text) AS bytes
FROM outbox.event AS e
LEFT JOIN outbox.failure AS f ON f.lane = e.lane AND f.id = e.id
LEFT JOIN outbox.held AS h ON h.lane = e.lane AND h.id = e.id
WHERE e.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND e.id > $1::bigint AND e.id <= $2::bigint
  AND ($3::text IS NULL OR e.topic LIKE $3)
  AND ($4::bytea IS NULL OR e.key = $4)
  AND ($5::timestamptz IS NULL OR e.created_at >= $5)
  AND ($6::timestamptz IS NULL OR e.created_at <= $6)
  AND (NOT $7::boolean OR f.id IS NOT NULL OR h.id IS NOT NULL)
ORDER BY e.id;

-- name: export_events
-- The events that match with $1 < id <= $2, in id order, with their failures.
SELECT e.id, e.event_id::text AS event_id, e.topic, e.key, e.type,
       -- Within what Python calls a date: a row from before 0007 may have any other.
       least(greatest(e.created_at, '0001-01-02'), '9999-12-31') AS created_at,
       e.headers::text AS headers, e.payload, f.state, h.id IS NOT NULL AS held, f.error, f.attempts, f.failed_at, e.erased_by
FROM outbox.event AS e
LEFT JOIN outbox.failure AS f ON f.lane = e.lane AND f.id = e.id
LEFT JOIN outbox.held AS h ON h.lane = e.lane AND h.id = e.id
WHERE e.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND e.id > $1::bigint AND e.id <= $2::bigint
  AND ($3::text IS NULL OR e.topic LIKE $3)
  AND ($4::bytea IS NULL OR e.key = $4)
  AND ($5::timestamptz IS NULL OR e.created_at >= $5)
  AND ($6::timestamptz IS NULL OR e.created_at <= $6)
  AND (NOT $7::boolean OR f.id IS NOT NULL OR h.id IS NOT NULL)
ORDER BY e.id;

-- name: export_receipts
-- The receipts that name ids above $1 and up to $2, and when they were written.
SELECT r.max_id, r.min_id, r.base_offset, r.kafka_partition, r.ids, r.delivered_at
FROM outbox.receipt AS r
WHERE r.max_id > $1::bigint AND r.max_id <= least($2::bigint, 9223372036854644736) + 131071 AND r.min_id <= $2::bigint
UNION ALL
SELECT d.id, d.id, d.kafka_offset, d.kafka_partition, '\x00000000'::bytea, d.delivered_at
FROM outbox.former_delivery AS d
WHERE d.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND d.id > $1::bigint AND d.id <= $2::bigint;

-- name: export_scheduled_sizes
-- The scheduled events that match after event_id $1, in the order of event_ids, at most $2: event_id and bytes.
SELECT s.event_id, coalesce(octet_length(s.payload), 0) + coalesce(octet_length(s.key), 0) + octet_length(s.headers::text) AS bytes
FROM outbox.scheduled AS s
WHERE s.event_id > $1::uuid
  AND ($3::text IS NULL OR s.topic LIKE $3)
  AND ($4::bytea IS NULL OR s.key = $4)
  AND ($5::timestamptz IS NULL OR s.created_at >= $5)
  AND ($6::timestamptz IS NULL OR s.created_at <= $6)
ORDER BY s.event_id
LIMIT $2::int;

-- name: export_scheduled
-- The scheduled events that match after event_id $1 and up to $2, in the order of event_ids.
SELECT s.event_id::text AS event_id, s.topic, s.key, s.type, s.created_at, s.headers::text AS headers, s.payload,
       s.deliver_at, s.timer
FROM outbox.scheduled AS s
WHERE s.event_id > $1::uuid AND s.event_id <= $2::uuid
  AND ($3::text IS NULL OR s.topic LIKE $3)
  AND ($4::bytea IS NULL OR s.key = $4)
  AND ($5::timestamptz IS NULL OR s.created_at >= $5)
  AND ($6::timestamptz IS NULL OR s.created_at <= $6)
ORDER BY s.event_id;
