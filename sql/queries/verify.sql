-- What `relay verify` reads: events and receipts by ranges of ids, to be compared with what Kafka has.

-- name: verify_session
-- For one transaction that reads ranges: each by its indexes, and an end to it.
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_material = off;
SET LOCAL jit = off;
SET LOCAL statement_timeout = '60s';
SET LOCAL lock_timeout = '10s';

-- name: verify_ranges
-- The events of topic $1 in ranges of ids: above $2 and up to $3, arrays. Each with what a record of it has.
SELECT e.id, convert_to(e.event_id::text, 'UTF8') AS event_id, e.key, e.payload, e.erased_by IS NOT NULL AS erased
FROM unnest($2::bigint[], $3::bigint[]) AS r (above, up_to)
CROSS JOIN LATERAL (
    SELECT event.*
    FROM outbox.event AS event
    WHERE event.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}')
      AND event.id > r.above AND event.id <= r.up_to AND event.topic = $1::text
) AS e;

-- name: verify_wanted
-- The events of topic $1 and key $2 (null: any) with $3 < id <= $4: id, key, whether it has no payload.
SELECT e.id, e.key, e.payload IS NULL AS tombstone
FROM outbox.event AS e
WHERE e.lane = ANY ($5::smallint[]) AND e.id > $3::bigint AND e.id <= $4::bigint AND e.topic = $1::text
  AND ($2::bytea IS NULL OR e.key = $2::bytea);

-- name: verify_receipts
-- The receipts that name ids above $1 and up to $2, written from $3 to $4. Former ones, too, each of one event.
SELECT r.max_id, r.min_id, r.base_offset, r.kafka_partition, r.ids
FROM outbox.receipt AS r
WHERE r.max_id > $1::bigint AND r.max_id <= least($2::bigint, 9223372036854644736) + 131071 AND r.min_id <= $2::bigint
  AND r.delivered_at >= $3::timestamptz AND r.delivered_at <= $4::timestamptz
UNION ALL
SELECT d.id, d.id, d.kafka_offset, d.kafka_partition, '\x00000000'::bytea
FROM outbox.former_delivery AS d
WHERE d.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND d.id > $1::bigint AND d.id <= $2::bigint
  AND d.delivered_at >= $3::timestamptz AND d.delivered_at <= $4::timestamptz;

-- name: verify_receipts_of
-- The receipts of the ids $1, one of each. For ids that are far apart.
SELECT asked.id AS max_id, asked.id AS min_id, d.kafka_offset AS base_offset, d.kafka_partition, '\x00000000'::bytea AS ids
FROM unnest($1::bigint[]) AS asked (id)
CROSS JOIN LATERAL outbox.receipt_of(asked.id) AS d;

-- name: verify_unsettled
-- Of the ids $1, those below their lane's position that are neither delivered, failed nor held: the relay has passed them.
SELECT e.id
FROM unnest($1::bigint[]) AS asked (id)
JOIN outbox.event AS e ON e.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND e.id = asked.id
JOIN outbox.lane AS l ON l.lane = e.lane
WHERE e.id <= l.position
  AND NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = e.lane AND f.id = e.id)
  AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = e.lane AND h.id = e.id)
  AND NOT EXISTS (SELECT FROM outbox.receipt_of(e.id));

-- name: verify_kept
-- From which id up to before which one all events are there, in ascending order: the segments, but for what was left of older ones.
SELECT s.lower_id, s.upper_id FROM outbox.segment AS s WHERE NOT s.kept ORDER BY s.lower_id;

-- name: verify_replays
-- Replays of failed events that people asked for, at most $1, the latest first.
SELECT a.filter::text AS filter, a.requested_at FROM outbox.action AS a WHERE a.kind = 'replay' ORDER BY a.id DESC LIMIT $1::int;

-- name: verify_times
-- When the events with ids $1 were written, and when they were delivered.
SELECT e.id, e.topic, e.key, least(greatest(e.created_at, '0001-01-02'), '9999-12-31') AS created_at, d.delivered_at
FROM unnest($1::bigint[]) AS asked (id)
JOIN outbox.event AS e ON e.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND e.id = asked.id
CROSS JOIN LATERAL outbox.receipt_of(e.id) AS d;

-- name: verify_sample
-- The first receipt that names an id from $1 on and whose events are of topic $2 (null: any), written until $3; its topic.
SELECT r.max_id, r.min_id, r.base_offset, r.kafka_partition, r.ids, e.topic
FROM (
    SELECT *
    FROM outbox.receipt
    WHERE max_id >= $1::bigint AND delivered_at <= $3::timestamptz AND base_offset >= 0
    ORDER BY max_id
    LIMIT 1000
) AS r
JOIN outbox.event AS e ON e.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND e.id = r.max_id
WHERE $2::text IS NULL OR e.topic = $2::text
ORDER BY r.max_id
LIMIT 1;

-- name: verify_later
-- Of the events with ids $1, those of whose key a later event of the topic $2 was delivered.
SELECT e.id
FROM unnest($1::bigint[]) AS asked (id)
JOIN outbox.event AS e ON e.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND e.id = asked.id
WHERE EXISTS (
    SELECT
    FROM outbox.event AS later
    CROSS JOIN LATERAL outbox.receipt_of(later.id) AS d
    WHERE later.lane = e.lane AND later.id > e.id AND later.topic = $2::text AND later.key = e.key
);

-- name: verify_position
-- The highest position of a lane: above it, no event is known to be settled.
SELECT max(l.position) AS position FROM outbox.lane AS l;
