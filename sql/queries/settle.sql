-- name: settle
-- Receipts of acknowledged events: lanes $1, ids $2, partitions $3, offsets $4. Sorted, because two owners settling the same events in different orders deadlocked.
WITH receipt AS (
    INSERT INTO outbox.delivery (lane, id, kafka_partition, kafka_offset)
    SELECT r.lane, r.id, r.kafka_partition, r.kafka_offset
    FROM unnest($1::smallint[], $2::bigint[], $3::int[], $4::bigint[]) AS r (lane, id, kafka_partition, kafka_offset)
    ORDER BY r.lane, r.id
    ON CONFLICT (lane, id) DO NOTHING
    RETURNING 1
)
SELECT count(*) AS inserted, pg_current_xact_id()::text AS xid FROM receipt;

-- name: settle_checked
-- The same for events that were read before a connection was lost: only if the id still belongs to the event_id of $5.
WITH receipt AS (
    INSERT INTO outbox.delivery (lane, id, kafka_partition, kafka_offset)
    SELECT r.lane, r.id, r.kafka_partition, r.kafka_offset
    FROM unnest($1::smallint[], $2::bigint[], $3::int[], $4::bigint[], $5::uuid[])
             AS r (lane, id, kafka_partition, kafka_offset, event_id)
    JOIN outbox.event AS e ON e.lane = r.lane AND e.id = r.id AND e.event_id = r.event_id
    ORDER BY r.lane, r.id
    ON CONFLICT (lane, id) DO NOTHING
    RETURNING 1
)
SELECT count(*) AS inserted, pg_current_xact_id()::text AS xid FROM receipt;

-- name: count_duplicates
-- How many of these acknowledged events already have a receipt for another place in Kafka, that is, were delivered twice.
SELECT count(*)
FROM unnest($1::smallint[], $2::bigint[], $3::int[], $4::bigint[]) AS r (lane, id, kafka_partition, kafka_offset)
JOIN outbox.delivery AS d ON d.lane = r.lane AND d.id = r.id
WHERE (d.kafka_partition, d.kafka_offset) IS DISTINCT FROM (r.kafka_partition, r.kafka_offset);
