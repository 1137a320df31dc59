-- What others do about a replica that ended without handing over its lanes.

-- name: dead_replicas
-- Replicas that note what they publish, whose lease is over, that own lanes, and that nobody is at work on who lives.
SELECT r.id
FROM outbox.replica AS r
WHERE r.process IS NOT NULL AND r.lease_expires_at <= clock_timestamp()
  AND (r.ended_at IS NULL OR r.ended_at < clock_timestamp() - interval '30 seconds'
       OR NOT EXISTS (SELECT FROM outbox.replica AS w WHERE w.id = r.ended_by AND w.lease_expires_at > clock_timestamp()))
  AND EXISTS (SELECT FROM outbox.lane AS l WHERE l.owner = r.id)
ORDER BY r.lease_expires_at, r.id;

-- name: end_replica
-- Replica $1 may begin nothing more: $2 asks Kafka for what it had published. No row if it is gone, or somebody else who lives is at work on it.
UPDATE outbox.replica AS r SET ended_at = clock_timestamp(), ended_by = $2::uuid
WHERE r.id = $1::uuid AND r.process IS NOT NULL AND r.lease_expires_at <= clock_timestamp()
  AND (r.ended_at IS NULL OR r.ended_by = $2::uuid OR r.ended_at < clock_timestamp() - interval '30 seconds'
       OR NOT EXISTS (SELECT FROM outbox.replica AS w WHERE w.id = r.ended_by AND w.lease_expires_at > clock_timestamp()))
RETURNING r.process, r.name, r.producers::text AS producers;

-- name: tails_of
-- The topics that process $1 may have published to, with an offset for each partition.
SELECT topic, offsets FROM outbox.tail WHERE process = $1::uuid ORDER BY topic;

-- name: still_at_work
-- $2 is at work on replica $1 still. People see why it cannot find out what that one had published: $3, unless it is null.
UPDATE outbox.replica
SET ended_at = clock_timestamp(),
    put_off = CASE WHEN $3::text IS NULL THEN put_off
                   ELSE put_off || jsonb_build_object('free lanes', jsonb_build_object('since', clock_timestamp(), 'error', $3::text)) END
WHERE id = $1::uuid AND ended_by = $2::uuid
RETURNING id;

-- name: let_go
-- $2 is at work on replica $1 no longer: others may try. $3: as above.
UPDATE outbox.replica
SET ended_by = NULL,
    put_off = CASE WHEN $3::text IS NULL THEN put_off
                   ELSE put_off || jsonb_build_object('free lanes', jsonb_build_object('since', clock_timestamp(), 'error', $3::text)) END
WHERE id = $1::uuid AND ended_by = $2::uuid;

-- name: found_events
-- Those of the ids $2 in lanes $1 that belong to the event_ids $3 and to topic $4. $5 and $6: the lowest and the highest id, which prune segments.
SELECT e.id
FROM unnest($1::smallint[], $2::bigint[], $3::uuid[]) AS r (lane, id, event_id)
JOIN outbox.event AS e ON e.lane = r.lane AND e.id = r.id AND e.id >= $5::bigint AND e.id <= $6::bigint
                      AND e.event_id = r.event_id AND e.topic = $4::text;

-- name: receipts_between
-- The receipts that may name ids with $1 <= id <= $2, one behind the other: the lowest and the highest id, the number of bytes, and the places of each.
SELECT string_agg(int8send(r.min_id) || int8send(r.max_id) || int4send(octet_length(r.ids)) || r.ids, '') AS receipts
FROM outbox.receipt AS r
WHERE r.max_id >= $1::bigint AND r.max_id <= least($2::bigint, 9223372036854644736) + 131071 AND r.min_id <= $2::bigint;

-- name: forget_ended
-- Take replica $1, which was ended, off the list with all that it noted: its lanes are free.
WITH gone AS (
    DELETE FROM outbox.replica WHERE id = $1::uuid AND ended_at IS NOT NULL RETURNING process
)
DELETE FROM outbox.tail AS t USING gone WHERE t.process = gone.process;
