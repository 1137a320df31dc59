-- Delivered events published again on purpose, by the owners of their lanes.
--
-- The request is a row of outbox.action: filter has what a person asked for (topic, key, since, until, rate), counts
-- how many events matched then (events) and what became of them (published, failed), progress how far the lanes are.

-- name: open_replays
-- Replays of delivered events that are under way.
SELECT a.id, a.filter::text AS filter, a.progress::text AS progress, a.requested_at
FROM outbox.action AS a
WHERE a.finished_at IS NULL AND a.kind = 'replay-delivered'
ORDER BY a.id;

-- name: events_to_replay
-- For action $1, events of lane $2 with $3 < id <= $4 that were delivered from $5 to $6, of topic $7 and key $8 (null: any), without a receipt of this action: at most $9 rows and about $10 bytes. Each gets the headers $11.
SELECT found.lane, found.id, found.event_id, found.topic, found.key, found.payload,
       (found.headers || $11::text::jsonb)::text AS headers,
       found.type, least(greatest(date_part('epoch', found.created_at) * 1000, 0), 253402300799999)::bigint AS created_ms, found.size
FROM (SELECT e.*, sum(e.size) OVER (ORDER BY e.id ROWS UNBOUNDED PRECEDING) - e.size AS bytes_before
      FROM (SELECT event.*,
                   octet_length(coalesce(event.payload, '')) + octet_length(coalesce(event.key, ''))
                   + pg_column_size(event.headers) + octet_length($11::text) AS size
            FROM outbox.event AS event
            WHERE event.lane = $2::smallint AND event.id > $3::bigint AND event.id <= $4::bigint
              AND event.topic = $7::text AND ($8::bytea IS NULL OR event.key = $8::bytea)
              -- A replay of an erased event would be a tombstone.
              AND event.erased_by IS NULL
              -- IS TRUE: the ids of the receipts are put into a hash table once, and not joined.
              AND (event.id IN (SELECT r.id
                                FROM outbox.receipts($3::bigint, $4::bigint, $5::timestamptz, $6::timestamptz) AS r)) IS TRUE
              AND NOT EXISTS (SELECT FROM outbox.replay_receipt AS r
                              WHERE r.action = $1::bigint AND r.lane = event.lane AND r.id = event.id)
            ORDER BY event.id
            LIMIT $9::int) AS e) AS found
WHERE found.bytes_before < $10::bigint
ORDER BY found.id;

-- name: settle_replayed
-- For action $1, receipts of lanes $2, ids $3, event_ids $4: partitions $5 and offsets $6, or errors $7 where Kafka refused; and their numbers.
--
-- event_id: an id that was used again after a crash or fail-over is another event. Receipts first, sorted, then the
-- action's row: two owners of a lane cannot deadlock.
WITH receipt AS (
    INSERT INTO outbox.replay_receipt (action, lane, id, kafka_partition, kafka_offset, error)
    SELECT a.id, r.lane, r.id, r.kafka_partition, r.kafka_offset, r.error
    FROM unnest($2::smallint[], $3::bigint[], $4::uuid[], $5::int[], $6::bigint[], $7::text[])
             AS r (lane, id, event_id, kafka_partition, kafka_offset, error)
    JOIN outbox.event AS e ON e.lane = r.lane AND e.id = r.id AND e.event_id = r.event_id
    JOIN outbox.action AS a ON a.id = $1::bigint
    ORDER BY r.lane, r.id
    ON CONFLICT (action, lane, id) DO NOTHING
    RETURNING error
),
number AS (
    SELECT count(*) FILTER (WHERE r.error IS NULL) AS published, count(r.error) AS failed FROM receipt AS r
)
UPDATE outbox.action AS a
-- What is no count, because somebody wrote it by hand, counts as none.
SET counts = a.counts || jsonb_build_object(
    'published', coalesce(substring(a.counts ->> 'published' FROM '^[0-9]{1,18}$')::bigint, 0) + number.published,
    'failed', coalesce(substring(a.counts ->> 'failed' FROM '^[0-9]{1,18}$')::bigint, 0) + number.failed
)
FROM number
WHERE a.id = $1::bigint AND number.published + number.failed > 0;

-- name: advance_replay
-- In action $1, the positions $5 of lanes $3 at epochs $4, as far as replica $2 owns them; once all lanes are at the end, the action is finished.
WITH mine AS MATERIALIZED (
    SELECT l.lane
    FROM outbox.lane AS l
    JOIN unnest($3::smallint[], $4::bigint[]) AS claimed (lane, epoch) ON claimed.lane = l.lane AND claimed.epoch = l.epoch
    WHERE l.owner = $2::uuid
    ORDER BY l.lane
    FOR SHARE OF l
),
reached AS (
    SELECT coalesce(jsonb_object_agg(n.lane, n.position), '{}') AS lanes
    FROM unnest($3::smallint[], $5::bigint[]) AS n (lane, position)
    JOIN mine ON mine.lane = n.lane
)
UPDATE outbox.action AS a
SET progress = jsonb_set(a.progress, '{lanes}', (a.progress -> 'lanes') || reached.lanes),
    finished_at = CASE
        WHEN NOT EXISTS (
            SELECT FROM jsonb_each((a.progress -> 'lanes') || reached.lanes) AS lane (number, position)
            WHERE lane.position < a.progress -> 'last_id'
        ) THEN clock_timestamp()
    END
FROM reached
WHERE a.id = $1::bigint AND a.finished_at IS NULL;

-- name: refuse_replay
-- Action $1 cannot be carried out, for reason $2.
UPDATE outbox.action AS a
SET finished_at = clock_timestamp(), counts = a.counts || jsonb_build_object('error', $2::text)
WHERE a.id = $1::bigint AND a.finished_at IS NULL;

-- name: forget_replayed
-- Drop up to $2 receipts of replays that have been over for $1 seconds; what was asked for and the counts stay.
WITH old AS (
    SELECT r.action, r.lane, r.id
    FROM outbox.action AS a
    JOIN outbox.replay_receipt AS r ON r.action = a.id
    WHERE a.kind = 'replay-delivered' AND a.finished_at < clock_timestamp() - make_interval(secs => $1::float8)
    LIMIT $2::int
)
DELETE FROM outbox.replay_receipt AS r USING old WHERE r.action = old.action AND r.lane = old.lane AND r.id = old.id
RETURNING 1;
