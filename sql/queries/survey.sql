-- What the gauges of the whole outbox show: bounded statements, each done now and then by every replica.

-- name: survey_ids
-- Ids that no position has passed, ids for which segments are made ahead, and lanes that no live replica owns.
SELECT greatest(newest.id - (SELECT min(l.position) FROM outbox.lane AS l), 0) AS open_ids,
       greatest((SELECT max(s.upper_id) FROM outbox.segment AS s) - newest.id - 1, 0) AS ids_ahead,
       (SELECT count(*)
        FROM outbox.lane AS l
        LEFT JOIN outbox.replica AS r ON r.id = l.owner AND r.lease_expires_at > clock_timestamp()
        WHERE r.id IS NULL) AS unowned_lanes
FROM (SELECT coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS id) AS newest;

-- name: survey_reach
-- Between which ids events may be pending: from before the first one above its lane's position to the newest.
SELECT coalesce(min(first.id) - 1, newest.id) AS above, newest.id AS up_to
FROM (SELECT coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS id) AS newest
LEFT JOIN outbox.lane AS l ON true
LEFT JOIN LATERAL (
    SELECT e.id FROM outbox.event AS e WHERE e.lane = l.lane AND e.id > l.position ORDER BY e.id LIMIT 1
) AS first ON true
GROUP BY newest.id;

-- name: survey_pending
-- The pending events with $1 < id <= $2, by topic, and the age of the oldest. (From infinity nothing can be subtracted.)
SELECT pending.topic, count(*) AS events,
       extract(epoch FROM clock_timestamp() - least(greatest(min(pending.created_at), '1970-01-01'), '9999-12-31'))::float8 AS oldest
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT e.lane, e.id, e.topic, e.created_at
    FROM outbox.event AS e
    WHERE e.lane = l.lane AND e.id > l.position AND e.id > $1::bigint AND e.id <= $2::bigint
      AND e.id NOT IN (SELECT r.id FROM outbox.receipted($1::bigint, $2::bigint) AS r (id))
    OFFSET 0
) AS pending
WHERE NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = pending.lane AND f.id = pending.id)
  AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = pending.lane AND h.id = pending.id)
GROUP BY pending.topic;

-- name: survey_failures
-- Events that are failed, retrying or replaying, by topic and state, of the first $1 such; with the number of their keys.
SELECT f.topic, f.state, count(*) AS events, count(DISTINCT f.key) AS keys
FROM (SELECT topic, state, key FROM outbox.failure WHERE state <> 'discarded' LIMIT $1::int) AS f
GROUP BY f.topic, f.state;

-- name: survey_held
-- Held events by topic, of the first $1.
SELECT h.topic, count(*) AS events
FROM (SELECT topic FROM outbox.held LIMIT $1::int) AS h
GROUP BY h.topic;
