-- What people ask about failures, and how they mark them for replay or discard.
--
-- Where a statement takes a filter, it is: ids $1, topic $2 and error $4 as LIKE patterns, key $3, failed from $5 to
-- $6, states $7; null means any. A test holds these lines together: what a person saw is what is marked.

-- name: failures_counting
-- For one transaction that matches held rows, maybe millions, with failures: each table read once, and an end to it.
SET LOCAL enable_nestloop = off;
SET LOCAL jit = off;
SET LOCAL statement_timeout = '5s';

-- name: failures_now
-- The server's time, from which "two hours ago" is counted.
SELECT clock_timestamp() AS now;

-- name: failures_list
-- Failures that match, in id order from above $8, at most $9.
SELECT f.lane, f.id, f.topic, f.key, f.state, f.policy, f.error, f.attempts, f.failed_at, f.next_attempt_at, f.action,
       extract(epoch FROM clock_timestamp() - f.failed_at)::float8 AS failed_seconds
FROM outbox.failure AS f
WHERE ($1::bigint[] IS NULL OR f.id = ANY ($1))
  AND ($2::text IS NULL OR f.topic LIKE $2)
  AND ($3::bytea IS NULL OR f.key = $3)
  AND ($4::text IS NULL OR f.error ILIKE $4)
  AND ($5::timestamptz IS NULL OR f.failed_at >= $5)
  AND ($6::timestamptz IS NULL OR f.failed_at <= $6)
  AND ($7::text[] IS NULL OR f.state = ANY ($7))
  AND f.id > $8::bigint
ORDER BY f.id
LIMIT $9::int;

-- name: failures_counts
-- Failures that match per topic, error and state, the most first; `passed`: those whose policy let later events of the key go on.
SELECT f.topic, f.error, f.state, count(*) AS events,
       count(*) FILTER (WHERE f.policy <> 'block' AND f.key IS NOT NULL) AS passed,
       extract(epoch FROM clock_timestamp() - min(f.failed_at))::float8 AS first_seconds,
       extract(epoch FROM clock_timestamp() - max(f.failed_at))::float8 AS last_seconds
FROM outbox.failure AS f
WHERE ($1::bigint[] IS NULL OR f.id = ANY ($1))
  AND ($2::text IS NULL OR f.topic LIKE $2)
  AND ($3::bytea IS NULL OR f.key = $3)
  AND ($4::text IS NULL OR f.error ILIKE $4)
  AND ($5::timestamptz IS NULL OR f.failed_at >= $5)
  AND ($6::timestamptz IS NULL OR f.failed_at <= $6)
  AND ($7::text[] IS NULL OR f.state = ANY ($7))
GROUP BY f.topic, f.error, f.state
ORDER BY count(*) DESC, f.topic, f.error, f.state;

-- name: failures_hold_back
-- How many events failures that match hold back, all together.
SELECT count(*) AS events
FROM outbox.held AS h
WHERE EXISTS (
    SELECT FROM outbox.failure AS f
    WHERE f.lane = h.lane AND f.topic = h.topic AND f.key = h.key AND f.id < h.id
      AND (f.state IN ('retrying', 'replaying') OR (f.state = 'failed' AND f.policy = 'block'))
      AND ($1::bigint[] IS NULL OR f.id = ANY ($1))
      AND ($2::text IS NULL OR f.topic LIKE $2)
      AND ($3::bytea IS NULL OR f.key = $3)
      AND ($4::text IS NULL OR f.error ILIKE $4)
      AND ($5::timestamptz IS NULL OR f.failed_at >= $5)
      AND ($6::timestamptz IS NULL OR f.failed_at <= $6)
      AND ($7::text[] IS NULL OR f.state = ANY ($7))
);

-- name: failures_hold_back_each
-- How many events each of the failures with ids $1 holds back; those that hold back none are left out.
SELECT f.id, count(*) AS events
FROM outbox.failure AS f
JOIN outbox.held AS h ON h.lane = f.lane AND h.topic = f.topic AND h.key = f.key AND h.id > f.id
WHERE f.id = ANY ($1::bigint[])
  AND (f.state IN ('retrying', 'replaying') OR (f.state = 'failed' AND f.policy = 'block'))
GROUP BY f.id;

-- name: mark_session
-- For one transaction that marks: the relay's own hold a row for milliseconds, only a person's can hold it longer.
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- name: mark_wake_up
-- Let the relay look at once; one in a person's transaction costs writers nothing.
SELECT outbox.wake_up();

-- name: mark_failures
-- Record the action $8 (filter $9, reason $10, who on which machine $11) and give the failures that match the state $12; no row when none does, or not all of ids.
--
-- Rows are locked in order, so that two people cannot deadlock, and looked at again once locked, so that each event
-- is in one action. An earlier replay hears of its events that failed again, as they leave its account.
WITH matching AS MATERIALIZED (
    SELECT f.lane, f.id, f.action
    FROM outbox.failure AS f
    WHERE ($1::bigint[] IS NULL OR f.id = ANY ($1))
      AND ($2::text IS NULL OR f.topic LIKE $2)
      AND ($3::bytea IS NULL OR f.key = $3)
      AND ($4::text IS NULL OR f.error ILIKE $4)
      AND ($5::timestamptz IS NULL OR f.failed_at >= $5)
      AND ($6::timestamptz IS NULL OR f.failed_at <= $6)
      AND ($7::text[] IS NULL OR f.state = ANY ($7))
      AND f.state IN ('failed', 'retrying')
    ORDER BY f.lane, f.id
    FOR UPDATE
),
requested AS (
    INSERT INTO outbox.action (kind, filter, reason, requested_by, finished_at, counts)
    SELECT $8::text, $9::jsonb, $10::text, session_user || ' (' || $11::text || ')',
           CASE WHEN $8::text = 'discard' THEN clock_timestamp() END,
           jsonb_build_object('events', count(*))
    FROM matching
    HAVING count(*) > 0 AND ($1::bigint[] IS NULL OR count(*) = cardinality($1))
    RETURNING id
),
marked AS (
    UPDATE outbox.failure AS f
    SET state = $12::text, next_attempt_at = NULL, action = requested.id
    FROM matching, requested
    WHERE f.lane = matching.lane AND f.id = matching.id
    RETURNING 1
),
former AS (
    UPDATE outbox.action AS a
    SET counts = a.counts
                 || jsonb_build_object('failed', coalesce(substring(a.counts ->> 'failed' FROM '^[0-9]{1,18}$')::bigint, 0) + again.events)
    FROM (SELECT matching.action, count(*) AS events FROM matching GROUP BY matching.action) AS again,
         requested
    WHERE a.id = again.action AND a.kind = 'replay' AND a.finished_at IS NULL
)
SELECT requested.id AS action, (SELECT count(*) FROM marked) AS events FROM requested;

-- name: events_asked_for
-- What is known about the events with ids $1: the event, its receipt, its failure, whether it is held. A row for each.
SELECT asked.id, e.lane, e.topic, e.key, d.kafka_partition, d.kafka_offset,
       extract(epoch FROM clock_timestamp() - d.delivered_at)::float8 AS delivered_seconds,
       f.state, f.action, a.requested_by,
       extract(epoch FROM clock_timestamp() - a.requested_at)::float8 AS requested_seconds,
       h.id IS NOT NULL AS held, e.erased_by
FROM unnest($1::bigint[]) WITH ORDINALITY AS asked (id, n)
LEFT JOIN LATERAL (
    SELECT event.lane, event.topic, event.key, event.erased_by
    FROM outbox.event
    WHERE event.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND event.id = asked.id
) AS e ON true
LEFT JOIN LATERAL outbox.receipt_of(asked.id) AS d ON e.lane IS NOT NULL
LEFT JOIN outbox.failure AS f ON f.lane = e.lane AND f.id = asked.id
LEFT JOIN outbox.action AS a ON a.id = coalesce(e.erased_by, f.action)
LEFT JOIN outbox.held AS h ON h.lane = e.lane AND h.id = asked.id
ORDER BY asked.n;

-- name: event_shown
-- Everything about the event with id $1, with the first $2 bytes of its payload.
SELECT e.lane, e.id, e.event_id, e.topic, e.key, e.headers::text AS headers, e.type,
       -- Within what Python calls a date: a row from before 0007 may have any other.
       least(greatest(e.created_at, '0001-01-02'), '9999-12-31') AS created_at,
       extract(epoch FROM clock_timestamp() - least(greatest(e.created_at, '0001-01-02'), '9999-12-31'))::float8
           AS created_seconds,
       CASE WHEN octet_length(e.payload) <= $2::int THEN e.payload ELSE substring(e.payload FROM 1 FOR $2) END AS payload,
       octet_length(e.payload) AS payload_bytes,
       d.kafka_partition, d.kafka_offset, d.delivered_at,
       f.state, f.policy, f.attempts, f.error, f.detail, f.failed_at, f.next_attempt_at, f.history::text AS history,
       extract(epoch FROM clock_timestamp() - f.failed_at)::float8 AS failed_seconds,
       extract(epoch FROM f.next_attempt_at - clock_timestamp())::float8 AS next_attempt_seconds,
       f.action, h.id IS NOT NULL AS held, e.erased_by
FROM outbox.event AS e
LEFT JOIN LATERAL outbox.receipt_of(e.id) AS d ON true
LEFT JOIN outbox.failure AS f ON f.lane = e.lane AND f.id = e.id
LEFT JOIN outbox.held AS h ON h.lane = e.lane AND h.id = e.id
WHERE e.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND e.id = $1::bigint;

-- name: held_behind
-- The failure that the event (lane $1, id $2, topic $3, key $4) is held behind: the first one that is not resolved.
SELECT f.id, f.state, f.error
FROM outbox.failure AS f
WHERE f.topic = $3::text AND sha256(f.key) = sha256($4::bytea) AND f.key = $4::bytea
  AND f.lane = $1::smallint AND f.id < $2::bigint
  AND (f.state IN ('retrying', 'replaying') OR (f.state = 'failed' AND f.policy = 'block'))
ORDER BY f.id
LIMIT 1;

-- name: first_held
-- The first $5 events that are held behind the event (lane $1, id $2, topic $3, key $4).
SELECT h.id
FROM outbox.held AS h
WHERE h.lane = $1::smallint AND h.topic = $3::text AND h.key = $4::bytea AND h.id > $2::bigint
ORDER BY h.id
LIMIT $5::int;

-- name: ids_there_are
-- From which id on whole segments are there, and the newest id.
SELECT (SELECT min(s.lower_id) FROM outbox.segment AS s WHERE NOT s.kept) AS lowest,
       CASE WHEN v.is_called THEN v.last_value ELSE 0 END AS newest
FROM outbox.event_id AS v;

-- name: actions
-- What people asked for, the latest first, at most $1, those before id $2 or the one with id $3; with what became of its events as far as it is not finished.
SELECT a.id, a.kind, a.filter::text AS filter, a.reason, a.requested_by, a.requested_at, a.finished_at,
       a.counts::text AS counts, progress.to_go,
       coalesce(substring(a.counts ->> 'failed' FROM '^[0-9]{1,18}$')::bigint, 0) + progress.failed AS failed,
       extract(epoch FROM clock_timestamp() - a.requested_at)::float8 AS requested_seconds
FROM outbox.action AS a
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE f.state = 'replaying') AS to_go,
           count(*) FILTER (WHERE f.state IN ('failed', 'retrying')) AS failed
    FROM outbox.failure AS f
    WHERE a.kind = 'replay' AND a.finished_at IS NULL AND f.action = a.id
) AS progress
WHERE ($2::bigint IS NULL OR a.id < $2)
  AND ($3::bigint IS NULL OR a.id = $3)
ORDER BY a.id DESC
LIMIT $1::int;

-- name: finish_replays
-- Replays of which no event is under way any more are finished; what is left of their events has failed again.
UPDATE outbox.action AS a
SET finished_at = clock_timestamp(),
    counts = a.counts || jsonb_build_object('failed', coalesce(substring(a.counts ->> 'failed' FROM '^[0-9]{1,18}$')::bigint, 0)
                                                      + (SELECT count(*) FROM outbox.failure AS f WHERE f.action = a.id))
WHERE a.kind = 'replay' AND a.finished_at IS NULL
  AND NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.action = a.id AND f.state = 'replaying');
