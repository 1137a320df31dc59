-- What people ask about delivered events, and how they have them published again.

-- name: replay_horizon
-- The server's time; the ids of which all is there, lowest to newest, and when the first receipt of these was written; and the bounds of what was kept of segments below.
SELECT clock_timestamp() AS now, whole.lowest_id,
       coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS newest_id,
       least((SELECT min(first.delivered_at)
              FROM (SELECT r.delivered_at FROM outbox.receipt AS r
                    WHERE r.max_id >= whole.lowest_id ORDER BY r.max_id LIMIT 100) AS first),
             (SELECT min(first.delivered_at)
              FROM outbox.lane AS l
              CROSS JOIN LATERAL (
                  SELECT d.delivered_at FROM outbox.former_delivery AS d WHERE d.lane = l.lane ORDER BY d.id LIMIT 1
              ) AS first)) AS kept_since,
       ARRAY(SELECT s.lower_id FROM outbox.segment AS s WHERE s.kept ORDER BY s.lower_id) AS kept_lower,
       ARRAY(SELECT s.upper_id FROM outbox.segment AS s WHERE s.kept ORDER BY s.lower_id) AS kept_upper
FROM (SELECT coalesce(min(s.lower_id), 1) AS lowest_id FROM outbox.segment AS s WHERE NOT s.kept) AS whole;

-- name: replay_counting
-- For one transaction that counts: events and receipts are read once each, and an end to it.
SET LOCAL enable_seqscan = off;
SET LOCAL enable_nestloop = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL jit = off;
SET LOCAL statement_timeout = '5s';
SET LOCAL lock_timeout = '1s';

-- name: count_delivered
-- Events of lanes $1 with $2 < id <= $3 that were delivered from $4 to $5, of topic $6 and key $7 (null: any), per lane; and how many more match that were erased.
-- Both are read by ranges and hashed (replay_counting).
SELECT e.lane, count(DISTINCT d.id) FILTER (WHERE e.erased_by IS NULL) AS events,
       count(DISTINCT d.id) FILTER (WHERE e.erased_by IS NOT NULL) AS erased,
       min(d.id) AS first_id, min(d.delivered_at) AS first_at, max(d.delivered_at) AS last_at
FROM outbox.receipts($2::bigint, $3::bigint, $4::timestamptz, $5::timestamptz) AS d
JOIN outbox.event AS e ON e.id = d.id
WHERE e.lane = ANY ($1::smallint[]) AND e.id > $2::bigint AND e.id <= $3::bigint AND e.topic = $6::text AND ($7::bytea IS NULL OR e.key = $7::bytea)
GROUP BY e.lane;

-- name: delivered_topics
-- Topics of delivered events that the newest $1 receipts name, and former ones of each lane, with the time of the last delivery.
SELECT e.topic, max(newest.delivered_at) AS last_at
FROM (
    SELECT r.min_id + p.difference AS id, r.delivered_at
    FROM (SELECT * FROM outbox.receipt ORDER BY max_id DESC LIMIT $1::int) AS r
    -- A record batch is of one topic.
    CROSS JOIN LATERAL (SELECT of.difference FROM outbox.places(r.ids) AS of LIMIT 1) AS p
    UNION ALL
    SELECT d.id, d.delivered_at
    FROM outbox.lane AS l
    CROSS JOIN LATERAL (
        SELECT f.id, f.delivered_at FROM outbox.former_delivery AS f WHERE f.lane = l.lane ORDER BY f.id DESC LIMIT $1::int
    ) AS d
) AS newest
JOIN outbox.event AS e ON e.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND e.id = newest.id
GROUP BY e.topic
ORDER BY e.topic;

-- name: request_replay
-- Record a replay of delivered events: filter $1, reason $2, who on which machine $3, counts $4, progress $5.
INSERT INTO outbox.action (kind, filter, reason, requested_by, counts, progress)
VALUES ('replay-delivered', $1::jsonb, $2::text, session_user || ' (' || $3::text || ')', $4::jsonb, $5::jsonb)
RETURNING id;

-- name: cancel_replay
-- End replay $1, asked for by $2 on which machine; no row if it is over, or none.
UPDATE outbox.action AS a
SET finished_at = clock_timestamp(),
    counts = a.counts || jsonb_build_object('cancelled', true, 'cancelled_by', session_user || ' (' || $2::text || ')')
WHERE a.id = $1::bigint AND a.kind = 'replay-delivered' AND a.finished_at IS NULL
RETURNING a.id;

-- name: replay_wake_up
-- Let the relay look at once.
SELECT pg_notify('outbox', 'replay');

-- name: replays
-- Replays of delivered events, the latest first, at most $1; only number $2 (null: all), only those under way if $3.
SELECT a.id, a.filter::text AS filter, a.reason, a.requested_by, a.requested_at, a.finished_at, a.counts::text AS counts,
       extract(epoch FROM clock_timestamp() - a.requested_at)::float8 AS requested_seconds
FROM outbox.action AS a
WHERE a.kind = 'replay-delivered' AND ($2::bigint IS NULL OR a.id = $2::bigint)
  AND (NOT $3::boolean OR a.finished_at IS NULL)
ORDER BY a.id DESC
LIMIT $1::int;

-- name: replay_errors
-- Why Kafka refused events of replay $1, the most frequent first, at most $2; with an id to look at.
SELECT r.error, count(*) AS events, min(r.id) AS example
FROM outbox.replay_receipt AS r
WHERE r.action = $1::bigint AND r.error IS NOT NULL
GROUP BY r.error
ORDER BY count(*) DESC, r.error
LIMIT $2::int;
