-- name: settle
-- Receipts: rows with highest ids $1, lowest ids $2, first offsets $3, partitions $4 and places $5, published by $6, which is to own the lanes $7.
-- Sorted, because two transactions that write the same rows in different orders would wait for each other for ever.
-- One that is there already was written by this statement before, in a transaction whose answer got lost.
WITH receipt AS (
    INSERT INTO outbox.receipt (max_id, min_id, base_offset, kafka_partition, ids, replica, late)
    SELECT r.max_id, r.min_id, r.base_offset, r.kafka_partition, r.ids, $6::uuid,
           (SELECT count(*) FROM outbox.lane AS l WHERE l.lane = ANY ($7::smallint[]) AND l.owner = $6::uuid)
           < cardinality($7::smallint[])
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::int[], $5::bytea[])
             AS r (max_id, min_id, base_offset, kafka_partition, ids)
    ORDER BY r.max_id
    ON CONFLICT (max_id, replica) DO NOTHING
    RETURNING octet_length(ids) / 4 AS places
)
SELECT coalesce(sum(places), 0) AS new FROM receipt;

-- name: settle_recorded
-- As `settle`, and deletes the failures and held rows of the events with lanes $8, ids $9.
-- Failures are locked in the order in which people mark them: otherwise the two could wait for each other.
WITH marked AS MATERIALIZED (
    SELECT f.lane, f.id
    FROM outbox.failure AS f
    JOIN unnest($8::smallint[], $9::bigint[]) AS r (lane, id) ON f.lane = r.lane AND f.id = r.id
    ORDER BY f.lane, f.id
    FOR UPDATE OF f
),
failure AS (
    DELETE FROM outbox.failure AS f USING marked AS r
    WHERE f.lane = r.lane AND f.id = r.id
),
held AS (
    DELETE FROM outbox.held AS h USING unnest($8::smallint[], $9::bigint[]) AS r (lane, id)
    WHERE h.lane = r.lane AND h.id = r.id
),
receipt AS (
    INSERT INTO outbox.receipt (max_id, min_id, base_offset, kafka_partition, ids, replica, late)
    SELECT r.max_id, r.min_id, r.base_offset, r.kafka_partition, r.ids, $6::uuid,
           (SELECT count(*) FROM outbox.lane AS l WHERE l.lane = ANY ($7::smallint[]) AND l.owner = $6::uuid)
           < cardinality($7::smallint[])
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::int[], $5::bytea[])
             AS r (max_id, min_id, base_offset, kafka_partition, ids)
    ORDER BY r.max_id
    ON CONFLICT (max_id, replica) DO NOTHING
    RETURNING octet_length(ids) / 4 AS places
)
SELECT coalesce(sum(places), 0) AS new FROM receipt;

-- name: still_the_same
-- Those of the ids $2 in lanes $1 that still belong to the event_ids $3: a crash or a fail-over may have given others to new events.
SELECT e.id
FROM unnest($1::smallint[], $2::bigint[], $3::uuid[]) AS r (lane, id, event_id)
JOIN outbox.event AS e ON e.lane = r.lane AND e.id = r.id AND e.event_id = r.event_id;

-- name: hold
-- Held rows for lanes $2, ids $3, topics $4, keys $5, if replica $1 owns all of lanes $6 at epochs $7; `owned` says how many it does.
-- None for an event that a former owner's receipt, which came late, says Kafka has: it would be published again.
-- None for an event with a failure: that says when it goes on, and a held row beside it would outlive its discard.
-- By order: planned while there were no failures, an equality alone would read all of the lane for each event.
WITH mine AS MATERIALIZED (
    SELECT l.lane
    FROM outbox.lane AS l
    JOIN unnest($6::smallint[], $7::bigint[]) AS claimed (lane, epoch) ON claimed.lane = l.lane AND claimed.epoch = l.epoch
    WHERE l.owner = $1::uuid
    ORDER BY l.lane
    FOR SHARE OF l
),
late AS MATERIALIZED (
    SELECT former.min_id + p.difference AS id
    FROM outbox.receipt AS former
    CROSS JOIN LATERAL outbox.places(former.ids) AS p
    WHERE former.late AND former.max_id >= (SELECT min(w.id) FROM unnest($3::bigint[]) AS w (id))
      AND former.max_id <= (SELECT least(max(w.id), 9223372036854644736) + 131071 FROM unnest($3::bigint[]) AS w (id))
      AND former.min_id <= (SELECT max(w.id) FROM unnest($3::bigint[]) AS w (id))
),
written AS (
    INSERT INTO outbox.held (lane, id, topic, key)
    SELECT r.lane, r.id, r.topic, r.key
    FROM unnest($2::smallint[], $3::bigint[], $4::text[], $5::bytea[]) AS r (lane, id, topic, key)
    WHERE (SELECT count(*) FROM mine) = cardinality($6::smallint[])
      AND r.id NOT IN (SELECT late.id FROM late)
      AND (SELECT f.id FROM outbox.failure AS f
           WHERE f.lane = r.lane AND f.id >= r.id ORDER BY f.id LIMIT 1) IS DISTINCT FROM r.id
    ORDER BY r.lane, r.id
    ON CONFLICT (lane, id) DO NOTHING
    RETURNING 1
)
SELECT (SELECT count(*) FROM mine) AS owned, count(*) AS new FROM written;

-- name: fail
-- Failures of events (lanes $2, ids $3, topics $4, keys $5): states $6, attempts $7, next attempts in $8 seconds, policies $9, errors $10, details $11; each in place of its held row, if replica $1 owns all of lanes $12 at epochs $13; `owned` says how many it does.
-- None for an event that a former owner's receipt, which came late, says Kafka has: it is delivered, and a failure that it had goes.
-- Written in the order in which people mark failures: otherwise the two could wait for each other.
WITH mine AS MATERIALIZED (
    SELECT l.lane
    FROM outbox.lane AS l
    JOIN unnest($12::smallint[], $13::bigint[]) AS claimed (lane, epoch) ON claimed.lane = l.lane AND claimed.epoch = l.epoch
    WHERE l.owner = $1::uuid
    ORDER BY l.lane
    FOR SHARE OF l
),
late AS MATERIALIZED (
    SELECT former.min_id + p.difference AS id
    FROM outbox.receipt AS former
    CROSS JOIN LATERAL outbox.places(former.ids) AS p
    WHERE former.late AND former.max_id >= (SELECT min(w.id) FROM unnest($3::bigint[]) AS w (id))
      AND former.max_id <= (SELECT least(max(w.id), 9223372036854644736) + 131071 FROM unnest($3::bigint[]) AS w (id))
      AND former.min_id <= (SELECT max(w.id) FROM unnest($3::bigint[]) AS w (id))
),
recorded AS MATERIALIZED (
    SELECT r.*
    FROM unnest($2::smallint[], $3::bigint[], $4::text[], $5::bytea[], $6::text[], $7::int[], $8::float8[], $9::text[], $10::text[], $11::text[])
             AS r (lane, id, topic, key, state, attempts, seconds, policy, error, detail)
    WHERE (SELECT count(*) FROM mine) = cardinality($12::smallint[])
),
held AS (
    DELETE FROM outbox.held AS h USING recorded AS r WHERE h.lane = r.lane AND h.id = r.id
),
marked AS MATERIALIZED (
    SELECT f.lane, f.id
    FROM outbox.failure AS f
    JOIN recorded AS r ON f.lane = r.lane AND f.id = r.id
    WHERE r.id IN (SELECT late.id FROM late)
    ORDER BY f.lane, f.id
    FOR UPDATE OF f
),
delivered AS (
    DELETE FROM outbox.failure AS f USING marked AS r WHERE f.lane = r.lane AND f.id = r.id
),
written AS (
    INSERT INTO outbox.failure AS f (lane, id, topic, key, state, attempts, next_attempt_at, error, detail, policy, history)
    SELECT r.lane, r.id, r.topic, r.key, r.state, r.attempts, clock_timestamp() + make_interval(secs => r.seconds),
           r.error, r.detail, r.policy,
           jsonb_build_array(jsonb_build_object('at', clock_timestamp(), 'attempt', r.attempts, 'error', r.detail))
    FROM recorded AS r
    WHERE r.id NOT IN (SELECT late.id FROM late)
    ORDER BY r.lane, r.id
    ON CONFLICT (lane, id) DO UPDATE
    SET state = excluded.state, attempts = excluded.attempts, next_attempt_at = excluded.next_attempt_at,
        error = excluded.error, detail = excluded.detail, policy = excluded.policy, failed_at = clock_timestamp(),
        -- The latest fifty tell the story; a row must not grow without end.
        history = CASE WHEN jsonb_array_length(f.history) < 50 THEN f.history ELSE f.history - 0 END || excluded.history
    WHERE f.state <> 'discarded'
    RETURNING 1
)
SELECT (SELECT count(*) FROM mine) AS owned, count(*) AS new FROM written;
